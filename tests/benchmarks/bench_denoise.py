"""Every method of `restorectl denoise` on real noisy fields, and what averaging gains.

    python tests/benchmarks/bench_denoise.py [--crop 256] [--variants TEXT]

Per method: PSNR (affine-fitted and absolute, peak 255) on the confocal fields and on widefield,
SSIM, network calls and seconds per field. Every row is the real command with the options printed.
"""

from common import compare

VARIANTS: dict[str, list[object]] = {
    "none (noisy input)": ["--strength", 0],
    "posterior (default)": [],
    "posterior, 2 samples": ["--samples", 2],
    "posterior, 5 samples": ["--samples", 5],
    "posterior, 15 samples": ["--samples", 15],
    "forward-backward": ["--method", "forward-backward"],
    "mixing": ["--method", "mixing"],
    "repaint": ["--method", "repaint"],
    **{
        f"conditional, {n} sample{'s' * (n > 1)}": ["--method", "conditional", "--samples", n]
        for n in (1, 2, 5, 10, 15, 20)
    },
    "conditional, deterministic": ["--method", "conditional", "--eta", 0],
    "conditional, 1 call": ["--method", "conditional", "--steps", 1],
    "forward-backward, paper": ["--method", "forward-backward", "--preset", "paper"],
    "mixing, paper": ["--method", "mixing", "--preset", "paper"],
    "repaint, paper": ["--method", "repaint", "--preset", "paper"],
    "repaint, challenge": ["--method", "repaint", "--preset", "challenge"],
}


if __name__ == "__main__":
    compare("denoise", VARIANTS, __doc__)
