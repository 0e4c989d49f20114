"""Training throughput on this machine: crops per second and the share of its bf16 convolution peak.

    python tests/benchmarks/bench_training.py [finetune] [prior] [calibrator]
    OMP_NUM_THREADS=1 python tests/benchmarks/bench_training.py finetune -s optimiser.micro_batch=16

Times the real training step (crops from images in memory, augmentation, objective, backward,
optimiser, averaging). The peak is measured right before, since other work on the machine slows
both; it is that of forward convolutions, which backward ones do not quite reach.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from bench_speed import convolution_peak
from common import table
from torch.utils.flop_counter import FlopCounterMode

from restorectl.engine.runner import pick_device, pick_precision
from restorectl.training import loop, train
from restorectl.training import recipe as recipes
from restorectl.training.dataset import Recent, scan
from restorectl.training.loop import World, fit, generator, precision
from restorectl.training.recipe import Recipe

STEPS = 4  # timed; one more warms up


def images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):
        field = rng.poisson(rng.gamma(2.0, 100.0, (1024, 1024))).astype(np.uint16)
        tifffile.imwrite(folder / f"{i}.tif", field)


def measure(recipe: Recipe, job: train.TrainJob) -> dict[str, Any]:
    """Crops per second (best step of a few) and GFLOP a crop."""
    device = pick_device(job.device)
    dtype = pick_precision(recipe.optimiser.precision, device)
    folder = scan(Path(job.data), recipe.data.channels)
    with closing(Recent(1 << 30)) as recent, ThreadPoolExecutor(1) as reader:
        material = train._material(job, recipe, folder, recent, None)
        model, _ = train._model(job, recipe, "bench")
        state = loop.state(model, recipe, device)
        load = train._loader(recipe, material, World(), reader)
        loss = loop.loss_of(recipe, load)
        with FlopCounterMode(display=False) as counter:
            with precision(device, dtype):
                each = loss(model, 1, 0, generator(device, 0))
            each.sum().backward()
        state.optimiser.zero_grad()
        flops = counter.get_total_flops() / recipe.optimiser.micro_batch / 1e9
        times, steps = [], fit(state, loss, recipe.optimiser, 0, dtype, World())
        for _ in range(STEPS + 1):
            start = time.perf_counter()
            next(steps)
            times.append(time.perf_counter() - start)
    return {"crops": recipe.optimiser.batch / min(times[1:]), "flops": flops}


def main(arguments: list[str]) -> None:
    overrides = [arguments[i + 1] for i, a in enumerate(arguments) if a == "-s"]
    names = [a for i, a in enumerate(arguments) if a != "-s" and arguments[i - 1] != "-s"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        images(Path(folder))
        for name in names or ("finetune", "calibrator"):
            job = train.TrainJob(name, folder, f"{folder}/out.safetensors")
            sizes = ["data.crop=128", "data.binning=1"] if name.startswith("calibrator") else []
            recipe = recipes.load(name, ["optimiser.batch=64", *sizes, *overrides])
            peak = convolution_peak()
            found = measure(recipe, job)
            rate = found["crops"] * found["flops"]
            rows.append([name, found["crops"], found["flops"], rate, peak, 100 * rate / peak])
    threads = torch.get_num_threads()
    print(f"{threads} thread(s), torch {torch.__version__}, steps of 64 crops")
    table(["recipe", "crops/s", "GFLOP a crop", "GFLOP/s", "conv peak", "share %"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
