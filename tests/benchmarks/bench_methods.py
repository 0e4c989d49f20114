"""The methods that people compare with, on real noisy fields, beside the default of `restore`.

    python tests/benchmarks/bench_methods.py [--crop 256] [--variants TEXT]

Per method: PSNR (affine-fitted and absolute, peak 255) on the confocal fields and on widefield,
SSIM, network calls and seconds per field, training included. Every row is the real command.
"""

from common import compare

STEPS = ["--train-steps", 1000]
VARIANTS: dict[str, list[object]] = {
    "none (noisy input)": ["--strength", 0],
    "posterior (default)": [],
    **{name: ["--method", name] for name in ("median", "gaussian", "nl-means", "wavelet", "tv")},
    "n2v": ["--method", "n2v", *STEPS],
    "n2v, no lines": ["--method", "n2v", "--mask", "none", *STEPS],
    "dip": ["--method", "dip", *STEPS],
    "mixing, guided by n2v": ["--method", "mixing", "--guide", "n2v", *STEPS],
}


if __name__ == "__main__":
    compare("denoise", VARIANTS, __doc__)
