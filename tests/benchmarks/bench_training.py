"""Training throughput on this machine: crops per second and the share of its bf16 convolution peak.

    python tests/benchmarks/bench_training.py [finetune] [prior] [calibrator]
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_training.py finetune -s optimiser.micro_batch=16

Times the steps of real runs (crops from images in memory, augmentation, objective, backward,
optimiser, averaging). The peak is measured right before, since other work on the machine slows
both; it is that of forward convolutions, which backward ones do not quite reach.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
import torch
from bench_speed import convolution_peak
from common import table
from torch.utils.flop_counter import FlopCounterMode

from restorectl.jobs import TrainJob
from restorectl.training.train import run

STEPS = 4  # timed; one more warms up
CROPS = 64  # a step
SETTINGS = (f"optimiser.batch={CROPS}", "validation.every=0")
CALIBRATOR = ("data.crop=128", "data.binning=1")  # one size of crops for every step


class Seconds:
    """A TrainingReport that keeps the time of each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def step(self, step) -> None:
        self.steps.append(step.seconds)

    def begin(self, steps, done, batch) -> None: ...
    def note(self, text) -> None: ...
    def validated(self, number, loss, error) -> None: ...
    def saved(self, path, number) -> None: ...


def images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        field = rng.poisson(rng.gamma(2.0, 100.0, (1024, 1024))).astype(np.uint16)
        tifffile.imwrite(folder / f"{i}.tif", field)


def seconds(name: str, data: str, steps: int, overrides: list[str]) -> list[float]:
    """The time of each step of a run."""
    sizes = CALIBRATOR if name.startswith("calibrator") else ()
    report = Seconds()
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/out.safetensors"
        settings = (*SETTINGS, f"optimiser.steps={steps}", *sizes, *overrides)
        run(TrainJob(name, data, output, settings), report)
    return report.steps


def main(arguments: list[str]) -> None:
    overrides = [arguments[i + 1] for i, a in enumerate(arguments) if a == "-s"]
    names = [a for i, a in enumerate(arguments) if a != "-s" and arguments[i - 1] != "-s"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images(Path(folder))
        for name in names or ("finetune", "calibrator"):
            with FlopCounterMode(display=False) as counter:
                seconds(name, folder, 1, overrides)
            flops = counter.get_total_flops() / CROPS / 1e9  # of a crop
            peak = convolution_peak()
            rate = CROPS / min(seconds(name, folder, STEPS + 1, overrides)[1:])
            rows.append([name, rate, flops, rate * flops, peak, 100 * rate * flops / peak])
    threads = torch.get_num_threads()
    print(f"{threads} thread(s), torch {torch.__version__}, steps of {CROPS} crops")
    table(["recipe", "crops/s", "GFLOP a crop", "GFLOP/s", "conv peak", "share %"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
