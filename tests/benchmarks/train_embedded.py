"""Makes the embedded prior from a folder of images, and compares it with the one before.

    python tests/benchmarks/train_embedded.py ../shared/data/train OUT --minutes 8.2
    python tests/benchmarks/train_embedded.py DATA OUT --steps 14000   # the same weights again

Trains the recipe `prior` on all files but HELD_OUT, with crops cut on the device and the network
compiled, and writes prior.safetensors, in parts of PART bytes, to OUT: every two minutes and at the
end. Then prints the gain in PSNR (dB) of the embedded prior and of the new one on images that the
new one never saw and on phantoms, at equal crops and noise.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo
import torch.nn.functional as F
from common import table

from restorectl.engine.denoiser import Denoiser, build, mixed
from restorectl.engine.runner import pick_device
from restorectl.jobs import TrainJob
from restorectl.training import augment, phantoms
from restorectl.training import recipe as recipes
from restorectl.training.dataset import CropSampler, ImageReader, scan, split
from restorectl.training.loop import StepResult, generator
from restorectl.training.objectives import Draw, observed
from restorectl.training.recipe import CropOptions
from restorectl.training.train import run
from restorectl.weights import file as weights_io

HELD_OUT = {  # one file of each structure
    "nuclei": "cellprofiler/human_d0.tif",
    "actin": "cellprofiler/fly_POS076_F.tif",
    "membranes": "neubias/xyc_8bit__membranes_nuclei_big.tif",
    "ER": "cytodataframe/nf1_F7_01_2_2_GFP_001.tif",
    "bacteria": "neubias/xy_16bit__bacteria_cords_thin.tif",
    "Golgi": "neubias/xyc_16bit__nuclei_golgi.tif",
    "puncta": "lysosome_movies/lyso_08_t0-7.tif",
}
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
PART = 12 << 20
FLOPS = 8.70e9  # forward and backward of a 64x64 crop
PEAK = 989e12  # bf16 per second, H100 and H200 without sparsity
PLAIN = CropOptions(gamma=(0.5, 0.5), gain=(1.0, 1.0), offset=(0.0, 0.0), flips=False)


class Report:
    """A TrainingReport: a line every SHOWN seconds, and a copy in parts of whatever is saved."""

    SHOWN = 15.0

    def __init__(self, out: Path) -> None:
        self.out, self.start = out, time.monotonic()
        self.log = (out / "log.txt").open("w", buffering=1)
        self.marks: list[tuple[int, float]] = []
        self.batch = self.steps = 0

    def note(self, text: str) -> None:
        line = f"{time.monotonic() - self.start:7.1f} s  {text}"
        print(line, flush=True)
        self.log.write(line + "\n")

    def begin(self, steps: int, done: int, batch: int) -> None:
        self.batch = batch
        self.note(f"begin: {steps} steps of {batch} crops")

    def step(self, step: StepResult) -> None:
        if step.steps != self.steps:
            self.steps = step.steps
            self.note(f"{step.steps} steps planned")
        now = time.monotonic()
        if not step.checked or (self.marks and now - self.marks[-1][1] < self.SHOWN):
            return
        self.marks.append((step.number, now))
        rate = self.rate(self.marks[-2:])
        self.note(
            f"step {step.number}/{step.steps}  loss {step.loss:.5f}  gradient {step.gradient:.3f}"
            f"  lr {step.lr:.2e}  {rate:.0f} crops/s = {100 * rate * FLOPS / PEAK:.1f} % of"
            f" {PEAK / 1e12:.0f} TFLOP/s"
        )

    def rate(self, marks: list[tuple[int, float]]) -> float:
        """Crops per second between the first and the last of these marks."""
        (first, began), (last, ended) = marks[0], marks[-1]
        return (last - first) * self.batch / max(ended - began, 1e-9)

    def validated(self, number: int, loss: float, error: float | None) -> None:
        self.note(f"step {number}: validation loss {loss:.5f}")

    def saved(self, path: Path, number: int) -> None:
        content = path.read_bytes()
        for i, start in enumerate(range(0, len(content), PART)):
            part = self.out / f"{path.name}.{i}"
            part.with_suffix(".new").write_bytes(content[start : start + PART])
            os.replace(part.with_suffix(".new"), part)
        self.note(f"step {number}: saved {len(content)} bytes")


def linked(data: Path, folder: Path) -> None:
    """Links in `folder` to all images below `data` but those held out."""
    for path in sorted(p for p in data.rglob("*") if p.is_file()):
        name = path.relative_to(data)
        if name.as_posix() not in HELD_OUT.values():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path.resolve())


# ---- comparison ----------------------------------------------------------------------------------
def clean_crops(
    data: Path, unseen: Path | None, count: int, side: int, device: torch.device
) -> Iterator[tuple[str, torch.Tensor]]:
    """Named groups of clean crops (B, 1, side, side) in network units."""
    folders = [(name, data / file) for name, file in HELD_OUT.items()]
    folders += [(f"FMD {p.stem[:15]}", p) for p in sorted(unseen.glob("*.*"))] if unseen else []
    for name, path in folders:
        if not path.exists():
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / path.name).symlink_to(path.resolve())
            images = scan(Path(folder), 1).images
            regions, _ = split(images, 1, 0.0, side)
            crops = CropSampler(ImageReader(images, 1 << 28), regions, 0.5)
            if crops.fits(side):
                batch = crops.batch(0, 1, 0, count, side)
                yield name, augment.clean(batch, PLAIN, generator(device, name))
    for kind in phantoms.KINDS:
        name = f"phantom {kind.__name__}"
        drawn = generator(device, name)
        yield name, phantoms.draw(2 * count, side, (0.5, 0.5), drawn, (kind,))


def noises() -> Iterator[tuple[str, float, dict[str, object]]]:
    """Name, level, and what differs from white noise in the recipe's section `noise`."""
    yield from ((f"white {level}", level, {}) for level in LEVELS)
    yield "white 0.2, told 10 % more or less", 0.2, {"jitter": 0.1}
    yield "two levels around 0.2", 0.2, {"region": 1.0}
    yield "correlated 0.1", 0.1, {"correlated": 1.0}
    yield "correlated 0.3", 0.3, {"correlated": 1.0}
    yield from ((f"{p} photons", 0.1, {"counts": 1.0, "photons": (p, p)}) for p in (1.0, 3.0, 10.0))


@torch.inference_mode()
def gain(model: Denoiser, x0: torch.Tensor, level: float, draw: Draw) -> torch.Tensor:
    """PSNR of the restored crops minus that of the noisy ones, dB (B,)."""
    seen = observed(x0, torch.full((len(x0),), level, device=x0.device), draw)
    sigma = seen.told[:, 0] if seen.share is None else mixed(seen.told, seen.share)
    made = torch.cat([model(*part) for part in zip(seen.x.split(16), sigma.split(16), strict=True)])
    errors = [F.mse_loss(x, x0, reduction="none").mean((1, 2, 3)) for x in (seen.x, made)]
    return 10 * (errors[0] / errors[1].clamp_min(1e-12)).log10()


def compare(names: list[str], args: argparse.Namespace, report: Report) -> None:
    """Print the gain of each weights file, by noise and by structure."""
    device, models = pick_device(args.device), []
    for name in names:
        found = weights_io.load(name)
        model = build(found.card, dict(found.tensors))
        models.append(model.prepared(device, torch.float32))
    plain = recipes.load("prior")
    white = replace(plain.noise, correlated=0.0, region=0.0, counts=0.0, jitter=0.0)
    groups = list(clean_crops(args.data, args.unseen, args.crops, args.side, device))
    by_noise, by_group = [], {name: [[] for _ in models] for name, _ in groups}
    for noise, level, changes in noises():
        recipe = replace(plain, noise=replace(white, **changes))
        means = {"images": [[] for _ in models], "phantoms": [[] for _ in models]}
        for name, x0 in groups:
            for i, model in enumerate(models):
                drawn = Draw(generator(device, noise, name), recipe)
                mean = float(gain(model, x0, level, drawn).mean())
                means["phantoms" if name.startswith("phantom") else "images"][i].append(mean)
                by_group[name][i].append(mean)
        for kind, values in means.items():
            both = [sum(v) / max(1, len(v)) for v in values]
            by_noise.append([noise, kind, *both, both[-1] - both[0]])
    by_structure = []
    for name, values in by_group.items():
        both = [sum(v) / len(v) for v in values]
        by_structure.append([name, len(values[0]), *both, both[-1] - both[0]])
    heads = ["of", *(Path(name).stem for name in names), "difference"]
    with (report.out / "results.txt").open("w") as stream:
        for title, rows in (("noise", by_noise), ("structure", by_structure)):
            table([title, *heads], rows)
            stream.writelines("\t".join(map(str, row)) + "\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="of training, compiling included"
    )
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", type=int, default=1)
    parser.add_argument("--before", default="prior", help="weights to compare with")
    parser.add_argument("--unseen", type=Path, help="folder of further clean images")
    parser.add_argument("--crops", type=int, default=12, help="of each structure, to compare")
    parser.add_argument("--side", type=int, default=128, help="px of these")
    parser.add_argument("-s", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.suppress_errors = True  # what cannot be compiled runs as it is
    report = Report(args.out)
    report.note(f"torch {torch.__version__}, {pick_device(args.device)}")
    overrides = (
        f"optimiser.steps={args.steps}",
        f"optimiser.minutes={args.minutes}",
        f"optimiser.compile={'true' if args.compile else 'false'}",
        "optimiser.micro_batch=1024",
        "checkpoint_minutes=2",
        "validation.every=0",
        "validation.fraction=0",
        *args.s,
    )
    with tempfile.TemporaryDirectory() as scratch:
        images, output = Path(scratch, "images"), Path(scratch, "new.safetensors")
        linked(args.data, images)
        run(TrainJob("prior", str(images), str(output), overrides, device=args.device), report)
        report.note(f"mean {report.rate(report.marks[1:] or report.marks):.0f} crops/s")
        torch.backends.cudnn.benchmark = False  # shapes vary
        compare([args.before, str(output)], args, report)
    report.note("done")


if __name__ == "__main__":
    main()
