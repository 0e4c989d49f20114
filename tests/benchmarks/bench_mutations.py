"""What becomes of damaged files: 20,000 mutations of every header field of every format.

    python tests/benchmarks/bench_mutations.py [COUNT] [SEED]

Restores them in parts of 1,000 (`--noise none`: pixels are only copied) and prints a table of the
ends, and each that is wrong: bugs, files without a line, pixels that no other reader finds.
"""

import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

from common import table

from tests.mutations import KINDS, verdicts

PART = 1000


def main(count: int, seed: int) -> None:
    logging.disable()  # tifffile reads the damaged files for comparison
    warnings.simplefilter("ignore")
    ends: Counter[str] = Counter()
    peak, slowest = 0, 0.0
    for k in range(0, count, PART):
        with tempfile.TemporaryDirectory() as folder:
            run = verdicts(Path(folder, "place"), min(PART, count - k), seed + k)
        ends += run.counts()
        peak, slowest = max(peak, run.peak), max(slowest, run.seconds)
        if run.traceback or run.code not in (0, 3):
            print(f"seed {seed + k}: exit {run.code}, traceback: {run.traceback}")
        for verdict in run.verdicts:
            if verdict.kind in ("bug", "silent", "alone"):
                print(f"{verdict.kind}: {verdict.name}: {verdict.damage}: {verdict.message}")
        print(f"{k + len(run.verdicts)}: {dict(ends)}", flush=True)
    rows: list[list[object]] = [[KINDS[kind], ends[kind]] for kind in KINDS]
    table([f"{count} damaged files", "files"], rows)
    print(f"slowest 1,000 in {slowest:.0f} s, peak memory {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]]
    main(words[0] if words else 20_000, words[1] if len(words) > 1 else 0)
