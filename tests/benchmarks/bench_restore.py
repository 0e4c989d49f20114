"""Quality and photometry of `restorectl restore` with default options on real noisy fields.

    python tests/benchmarks/bench_restore.py [--all-realisations] [--figure FILE.png] [-- OPTIONS]

Prints PSNR (dB, peak 255) after a least-squares affine fit and absolute, and the ratio of means
output / input, beside BM3D on the same whitened image where `bm3d` is installed.
"""

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from common import (
    CONFOCAL,
    DATA,
    FIELDS,
    affine_psnr,
    bm3d_whitened,
    need_data,
    pair,
    psnr,
    restorectl,
    table,
)


def photometry(noisy: np.ndarray, restored: np.ndarray, bins: int = 6) -> list[tuple[float, float]]:
    """(mean restored, mean noisy / mean restored) in bins of equal size."""
    k = 16  # pixels are averaged k x k: bins of single noisy pixels would select their noise
    h, w = (n // k * k for n in noisy.shape)
    a, b = (
        im[:h, :w].astype(np.float64).reshape(h // k, k, w // k, k).mean((1, 3)).ravel()
        for im in (noisy, restored)
    )
    order = np.array_split(np.argsort(b), bins)
    return [(float(b[i].mean()), float(b[i].mean() / max(a[i].mean(), 1e-9))) for i in order]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all-realisations", action="store_true")
    parser.add_argument("--no-bm3d", action="store_true")
    parser.add_argument("--figure", help="write the photometry figure here (needs matplotlib)")
    parser.add_argument("options", nargs="*", help="options of restorectl restore, after --")
    args = parser.parse_args()
    need_data()
    classical = not args.no_bm3d and importlib.util.find_spec("bm3d") is not None
    rows, trends = [], {}
    with tempfile.TemporaryDirectory() as folder:
        out, manifest = Path(folder, "out"), Path(folder, "run.json")
        restorectl(
            "restore", DATA / "pairs/noisy/fmd", "-o", out, "--manifest", manifest, *args.options
        )
        made = {Path(f["source"]).stem: f for f in json.loads(manifest.read_text())["files"]}
        for field in FIELDS:
            for k in range(1, 5 if args.all_realisations else 2):
                noisy, clean = pair(field, k)
                restored = iio.imread(out / f"{field}_noisy_{k}.png")
                noise = made[f"{field}_noisy_{k}"]["details"]["noise"]["0"]["noise"]
                row = [f"{field} {k}", affine_psnr(noisy, clean), psnr(noisy, clean)]
                if classical:
                    best = bm3d_whitened(noisy)
                    row += [affine_psnr(best, clean), psnr(best, clean)]
                row += [affine_psnr(restored, clean), psnr(restored, clean)]
                row += [f"{restored.mean() / noisy.mean():.4f}", noise["level"]]
                row += [noise["belief"], made[f"{field}_noisy_{k}"]["calls"]]
                rows.append(row)
                trends[f"{field} {k}"] = photometry(noisy, restored)
    header = ["field", "noisy affine", "absolute"]
    header += ["BM3D affine", "absolute"] if classical else []
    header += ["restorectl affine", "absolute", "mean out/in", "level", "fit", "calls"]
    means = [r for r in rows if r[0].rsplit(" ", 1)[0] in CONFOCAL]
    average = ["confocal mean"] + [
        float(np.mean([r[i] for r in means])) if isinstance(means[0][i], float) else ""
        for i in range(1, len(header))
    ]
    table(header, [*rows, average])
    print("mean output / mean input against intensity (16x16 means, six bins of equal size):")
    for name, trend in trends.items():
        print(f"  {name:22s}", "  ".join(f"{level:6.1f}: {ratio:.3f}" for level, ratio in trend))
    if args.figure:
        figure(trends, args.figure)


def figure(trends: dict[str, list[tuple[float, float]]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = pyplot.figure(figsize=(7, 4), layout="constrained").add_subplot()
    for name, trend in trends.items():
        axes.plot(*zip(*trend, strict=True), marker="o", label=name)
    axes.axhspan(0.99, 1.01, color="0.9")
    axes.set(xscale="log", xlabel="restored intensity", ylabel="mean output / mean input")
    axes.legend(fontsize=6)
    axes.figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
