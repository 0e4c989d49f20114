"""The methods that people compare with, on real noisy fields, beside the default of `restore`.

    python tests/benchmarks/bench_methods.py [--crop 256] [--variants TEXT] [--steps N]
        [--results FILE]

Per method: PSNR (affine-fitted and absolute, peak 255) and SSIM on the first realisations of FMD
and on GigaDB, CPU seconds of training and of restoring a field, memory. Every row but those of
other tools is the real command. Supervised methods learn from simulated noise over train/, the
others see the noisy images only. Each field is added to the results file when it is done, and is
not done again: a run goes on where an earlier one was stopped.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from common import DATA, FIELDS, REPOSITORY, affine, bm3d_whitened, need_data, psnr, ssim

GIGADB = ("actin-20x", "actin-60x", "mito-20x", "mito-60x")
GROUPS = ("confocal", "widefield", "GigaDB")
SIMULATED = ["degradation.level=[0.02,0.6]", "data.cache_mb=256"]
SMALL = ["data.crop=64", "optimiser.warmup=20", "validation.every=0", "validation.keep=last"]
SMALL += ["network.config.channels=[32,48,64]", "optimiser.ema=0.98"]
BATCH = ["optimiser.batch=16", "optimiser.micro_batch=16"]
FOUR = ["optimiser.batch=4", "optimiser.micro_batch=4"]
ONE_BLOCK = ["network.config.blocks=1", "network.config.embedding=32"]
RECIPES: dict[str, list[str]] = {  # what differs from the packaged recipe, for two cores
    "care": [*BATCH, *ONE_BLOCK, "optimiser.lr=4e-3", "optimiser.steps=600"],
    "unet-rcan": [*FOUR, "network.config.groups=1", "network.config.blocks=4",
                  "optimiser.lr=1e-3", "optimiser.clip=1", "optimiser.steps=300"],
    "pix2pix": [*BATCH, *ONE_BLOCK, "adversary.channels=16", "optimiser.lr=1e-3",
                "optimiser.steps=400"],
    "cyclegan": [*FOUR, *ONE_BLOCK, "adversary.channels=16", "optimiser.lr=1e-3",
                 "optimiser.steps=400"],
}  # fmt: skip
CLASSICAL = ("median", "gaussian", "nl-means", "wavelet", "tv")
VARIANTS: dict[str, list[object]] = {
    "none (noisy input)": ["--strength", 0],
    "posterior (default)": [],
    **{name: ["--method", name] for name in CLASSICAL},
    "n2v": ["--method", "n2v"],
    "dip": ["--method", "dip"],
    "mixing, guided by n2v": ["--method", "mixing", "--guide", "n2v"],
    **{name: ["--method", "care", "--weights", f"{name}.safetensors"] for name in RECIPES},
}
OWN = ("n2v", "dip", "mixing, guided by n2v")  # train on each image


def ndsafir_alone(image: np.ndarray) -> np.ndarray:
    """ndsafir with its own noise estimate: `pip install ndsafir` first."""
    import ndsafir

    seen = image.astype(np.float32)
    gains, offsets = ndsafir.calibrate_poisson_gaussian(seen, axes="YX")
    made = ndsafir.denoise_poisson_gaussian(seen, axes="YX", gains=gains, offsets=offsets)
    return np.asarray(made)


OTHERS = {"BM3D, whitened": bm3d_whitened, "ndsafir": ndsafir_alone}


def fields(crop: int) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """name -> (group, noisy, clean), the middle of each field in its dtype."""
    files = {f: f"fmd/{f}_noisy_1.png" for f in FIELDS}
    files |= {f: f"gigadb/{f}-noise1_low_crop.tif" for f in GIGADB}
    found = {}
    for name, file in files.items():
        noisy, clean = (iio.imread(DATA / "pairs" / side / file) for side in ("noisy", "clean"))
        part = tuple(slice((n - crop) // 2, (n - crop) // 2 + crop) for n in noisy.shape)
        group = "widefield" if "Wide" in name else "GigaDB" if name in GIGADB else "confocal"
        found[name] = group, noisy[part], clean[part]
    return found


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "restorectl", *map(str, words)]


def restored(source: Path, options: list[object], room: Path) -> Iterator[tuple[str, Any, dict]]:
    """(field, image, line of JSON) of each image, as it is done; at last ("", None, the cost)."""
    out = room / f"{source.name}-out"
    words = command("denoise", source, "-o", out, "--json", "--overwrite", *options)
    with subprocess.Popen(words, cwd=room, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        for text in process.stdout:
            line = json.loads(text)
            name = Path(line["source"]).stem
            yield name, iio.imread(out / f"{name}.tif"), line
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(words)} ended with {process.returncode}")
    yield "", None, {"memory": used.ru_maxrss / 1024, "cpu": used.ru_utime + used.ru_stime}


ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


def trained(name: str, room: Path, steps: str | None) -> float:
    """CPU seconds of training a supervised network, which is kept."""
    target, told = room / f"{name}.safetensors", room / f"{name}.seconds"
    if not told.exists():
        target.unlink(missing_ok=True)
        last = [f"optimiser.steps={steps}"] if steps else []
        changes = [w for c in (*SIMULATED, *SMALL, *RECIPES[name], *last) for w in ("-s", c)]
        words = command("train", name, "--data", DATA / "train", "-o", target, "-q", *changes)
        target.with_suffix(".resume.safetensors").unlink(missing_ok=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, check=True, env=ENVIRONMENT)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        told.write_text(f"{used.ru_utime - before.ru_utime:.1f}")
    return float(told.read_text())


def score(variant: str, todo: dict, room: Path, steps: str | None) -> Iterator[dict[str, object]]:
    """A record for each field, and one for the cost of all."""
    source = room / "".join(c for c in variant if c.isalnum())
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for name, (_, noisy, _) in todo.items():
        iio.imwrite(source / f"{name}.tif", noisy)
    training = trained(variant, room, steps) if variant in RECIPES else None
    own = ["--cache", room / "networks"] if variant in OWN else []
    own += ["--train-steps", steps] if own and steps else []
    if variant in OTHERS:
        made: Any = others(variant, todo)
    else:
        made = restored(source, [*VARIANTS[variant], *own], room)
    for name, image, line in made:
        if not name:
            cost = {"cpu": line["cpu"] / len(todo), "memory": line["memory"], "training": training}
            yield {"variant": variant, "field": "", "date": str(date.today())} | cost
            continue
        group, _, clean = todo[name]
        fit = affine(image, clean)
        quality = {"affine": psnr(fit, clean), "absolute": psnr(image, clean)}
        quality["ssim"] = ssim(fit, clean)
        yield {"variant": variant, "field": name, "group": group} | quality


def others(variant: str, todo: dict) -> Iterator[tuple[str, np.ndarray, dict]]:
    start = time.process_time()
    for name, (_, noisy, _) in todo.items():
        yield name, np.clip(OTHERS[variant](noisy), 0, 255), {}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield "", None, {"cpu": time.process_time() - start, "memory": memory}


def show(records: list[dict]) -> None:
    """The table, as Markdown."""
    print(f"\n| method | {' | '.join(f'{g} | absolute' for g in GROUPS)} | SSIM | fields"
          " | training, CPU s | CPU s | MB |\n|" + "---|" * 12)  # fmt: skip
    for variant in (*VARIANTS, *OTHERS):
        mine = [r for r in records if r["variant"] == variant]
        rows = [r for r in mine if r["field"]]
        cells: list[str] = []
        for group in GROUPS:
            inside = [r for r in rows if r["group"] == group]
            for key in ("affine", "absolute"):
                cells.append(f"{np.mean([r[key] for r in inside]):.2f}" if inside else "")
        if rows:
            cells += [f"{np.mean([r['ssim'] for r in rows]):.3f}", str(len(rows))]
            cost = next((r for r in mine if r.get("cpu")), {})
            units = (("training", "{:.0f}"), ("cpu", "{:.1f}"), ("memory", "{:.0f}"))
            cells += [form.format(cost[key]) if cost.get(key) else "" for key, form in units]
            print(f"| {variant} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crop", type=int, default=256, help="side of the middle part in use")
    parser.add_argument("--variants", help="only those whose name contains one of these, a,b")
    parser.add_argument("--steps", help="of methods that train on each image, and of recipes")
    parser.add_argument("--results", type=Path, default=Path("bench_methods.jsonl"))
    args = parser.parse_args()
    need_data()
    room = args.results.with_suffix(".work").resolve()
    room.mkdir(exist_ok=True, parents=True)
    args.results.touch()
    for variant in (*VARIANTS, *OTHERS):
        if args.variants and not any(part in variant for part in args.variants.split(",")):
            continue
        done = [json.loads(text) for text in args.results.read_text().splitlines()]
        known = {r["field"] for r in done if r["variant"] == variant}
        todo = {k: v for k, v in fields(args.crop).items() if k not in known}
        if todo:
            for record in score(variant, todo, room, args.steps):
                with args.results.open("a") as file:
                    file.write(json.dumps(record) + "\n")
    show([json.loads(text) for text in args.results.read_text().splitlines()])


if __name__ == "__main__":
    main()
