"""Every benchmark starts: it imports what is there, and says what it needs or prints its table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BENCHMARKS = sorted(path.name for path in HERE.glob("bench_*.py"))
NO_IMAGES = (1, "set RESTORECTL_DATA to the folder that holds pairs/")
STARTS = {  # arguments, exit code, and what is said; the others need real images
    "bench_big.py": (["6000", "128"], 0, "128 x 128 px restored"),
    "bench_camera.py": (["3"], 0, "photon transfer from"),
    "bench_chaos.py": (["--help"], 0, "--kills"),
    "bench_cluster.py": (["--help"], 0, "--stack"),
    "bench_context.py": (["fmd"], *NO_IMAGES),
    "bench_counts.py": (["0.3"], 0, "mean out / mean in"),
    "bench_evaluate.py": (["1"], 0, "1 pairs of 512x512"),
    "bench_gpu.py": ([], 1, "no GPU here"),
    "bench_invalid.py": (["1"], 0, "0 of 1 failed"),
    "bench_files.py": (["4"], 0, "ms each"),
    "bench_mutations.py": (["20"], 0, "20 damaged files"),
    "bench_noise.py": (["clean"], *NO_IMAGES),
    "bench_papers.py": (["AI4Life"], 0, "1 done"),
    "bench_path.py": (["--version"], 0, "public functions in"),
    "bench_training.py": (["no-such-recipe"], 1, "recipe 'no-such-recipe': no such file"),
    "bench_uncertainty.py": (["real"], *NO_IMAGES),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_starts(name):
    arguments, code, said = STARTS.get(name, ([], *NO_IMAGES))
    env = os.environ | {"OMP_NUM_THREADS": "1", "RESTORECTL_DATA": "", "SIDE": "96"}
    command = [sys.executable, str(HERE / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
