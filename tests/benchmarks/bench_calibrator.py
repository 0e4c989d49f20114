"""How well each calibrator tells the noise level: error in log sigma, by kind of noise.

    python tests/benchmarks/bench_calibrator.py [--weights calibrator] [--windows 24]

Truth is the level of white noise with the same power at low frequencies, which is what a denoiser
for white noise should be told. Synthetic: clean FMD means in [-1, 1] (square root of the intensity)
plus noise of a known kind. Real: whitened FMD images, truth from the power spectrum of noisy minus
clean between 0.02 and 0.1 cycles a pixel.
"""

import argparse
from functools import partial

import numpy as np
from common import FIELDS, need_data, pair, table

SIDE = 256
KINDS = ("white", "Gaussian 0.5 px", "Gaussian 0.8 px", "rows", "half white, half 0.8 px", "region")


def kernel(kind: str) -> np.ndarray:
    """(7, 7) correlation kernel with unit energy."""
    axis = np.arange(-3, 4)
    if kind == "rows":
        profile = np.exp(-0.5 * (axis / 0.7) ** 2)
        shape = np.outer(axis == 0, profile)
    else:
        width = float(kind.split()[1]) if kind.startswith("Gaussian") else 0.8
        shape = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None] ** 2) / width**2)
    return shape / np.sqrt((shape**2).sum())


def noise(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Unit-variance noise (SIDE, SIDE) and its low-frequency level."""
    white = rng.normal(size=(SIDE, SIDE))
    if kind in ("white", "region"):
        if kind == "region":
            white[64:192, 64:192] *= 0.6  # the larger level is the truth
        return white, 1.0
    taps = kernel(kind)
    padded = np.zeros((SIDE, SIDE))
    padded[:7, :7] = taps
    coloured = np.fft.ifft2(np.fft.fft2(rng.normal(size=(SIDE, SIDE))) * np.fft.fft2(padded)).real
    gain = float(taps.sum())
    if kind.startswith("half"):
        return (white + coloured) / np.sqrt(2), float(np.sqrt((1 + gain**2) / 2))
    return coloured, gain


def low_frequency(residual: np.ndarray) -> float:
    """Level of white noise with the residual's power between 0.02 and 0.1 cycles a pixel."""
    window = np.outer(*(np.hanning(n) for n in residual.shape))
    centred = residual - residual.mean()
    power = np.abs(np.fft.fft2(centred * window)) ** 2 / (window**2).sum()
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in residual.shape), indexing="ij"))
    return float(np.sqrt(power[(radius > 0.02) & (radius < 0.1)].mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="calibrator")
    parser.add_argument("--windows", type=int, default=24, help="for each kind of noise")
    args = parser.parse_args()
    need_data()
    from restorectl.catalog import CALIBRATORS
    from restorectl.engine.calibrators import level_of
    from restorectl.intensity import whitening
    from restorectl.jobs import WeightsOptions
    from restorectl.restoration.restorer import load_calibrator

    measure = {}
    for name in CALIBRATORS:
        calibrator, _ = load_calibrator(name, args.weights, WeightsOptions(), "cpu")
        measure[name] = partial(level_of, calibrator)
    rng = np.random.default_rng(0)
    rows = []
    for kind in KINDS:
        errors = {name: [] for name in measure}
        for k in range(args.windows):
            clean = pair(FIELDS[k % 5])[1].astype(float)
            top, left = rng.integers(0, 512 - SIDE, 2)
            root = np.sqrt(clean[top : top + SIDE, left : left + SIDE])
            x0 = root / np.percentile(root, 99.9) * 2 - 1
            field, level = noise(kind, rng)
            sigma = float(np.exp(rng.uniform(np.log(0.05), np.log(0.6))))
            x = (x0 + sigma * field).astype(np.float32)
            for name, calibrator in measure.items():
                errors[name].append(np.log(calibrator(x[None]) / (sigma * level)))
        rows.append([kind])
        for values in errors.values():
            rows[-1] += [f"{np.mean(values):+.2f}", float(np.sqrt(np.mean(np.square(values))))]
    for field in FIELDS:
        errors = {name: [] for name in measure}
        for k in range(1, 5):
            noisy, clean = (image.astype(np.float32) for image in pair(field, k))
            fit = np.polyfit(clean.ravel(), noisy.ravel(), 1)
            model = whitening.fit([noisy])
            x, truth = model.forward(noisy), model.forward(fit[0] * clean + fit[1])
            level = low_frequency(x - truth)
            parts = [x[i : i + SIDE, j : j + SIDE] for i in (0, 256) for j in (0, 256)]
            for name, calibrator in measure.items():
                found = np.median([np.log(calibrator(part[None])) for part in parts])
                if name == "analytic":  # what restore uses: the intensity model of the whole image
                    found = np.log(model.sigma)
                errors[name].append(found - np.log(level))
        rows.append([f"{field} x 4"])
        for values in errors.values():
            rows[-1] += [f"{np.mean(values):+.2f}", float(np.sqrt(np.mean(np.square(values))))]
    header = ["noise", *(f"{name} {what}" for name in measure for what in ("mean", "rms"))]
    table(header, rows)


if __name__ == "__main__":
    main()
