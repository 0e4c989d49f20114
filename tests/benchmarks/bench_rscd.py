"""Step-calibrated restoration and its ablations on real noisy fields, beside the default command.

    python tests/benchmarks/bench_rscd.py [--crop 256] [--variants TEXT]

Per variant: PSNR (affine-fitted and absolute, peak 255) on the confocal fields and on widefield,
SSIM, network calls and seconds per field. Every variant is the real command with the options of its
row.
"""

from common import compare

VARIANTS = {
    "default (1 call)": [],
    "2 calls": ["--steps", 2],
    "3 calls": ["--steps", 3],
    "default, network calibrator": ["--calibrator", "network"],
    "default, nonparametric": ["--calibrator", "nonparametric"],
    "fixed 10 stochastic steps": ["--sampler", "ancestral", "--steps", 10],
    "fixed 50 stochastic steps": ["--sampler", "ancestral", "--steps", 50],
    "rscd": ["--sampler", "rscd"],
    "rscd, network calibrator": ["--sampler", "rscd", "--calibrator", "network"],
    "rscd, nonparametric": ["--sampler", "rscd", "--calibrator", "nonparametric"],
    "rscd, no recalibration": ["--sampler", "rscd", "--recalibrate", 0],
    "rscd, linear schedule": ["--sampler", "rscd", "--schedule", "linear"],
    "rscd, official loop": ["--sampler", "rscd", "--preset", "official"],
    "rscd, paper's Algorithm 1": ["--sampler", "rscd", "--preset", "paper"],
}


if __name__ == "__main__":
    compare("restore", VARIANTS, __doc__)
