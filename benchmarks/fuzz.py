"""Does any file from a stranger bring down what opens it?

    python benchmarks/fuzz.py [--targets dataset,checkpoint] [--inputs 5000] [--seed 0] [--out fuzz.json]

Claim to check: whatever is done to a valid file, opening, verifying or importing it runs no code, opens no other file,
takes little more memory than the file is large, and ends well or in one sentence.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz_pool import verdicts
from fuzz_targets import targets

def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--targets", default="")
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(words)
    known = targets()
    names = options.targets.split(",") if options.targets else list(known)
    for name in names:
        started = time.perf_counter()
        found = list(verdicts(known[name], range(options.inputs), options.seed, options.processes))
        print(name, Counter(v.outcome for v in found), f"{time.perf_counter()-started:.1f} s, touched {max(v.touched for v in found)>>10} KiB; slowest {max(v.seconds for v in found):.2f}")
        kinds: dict[str, list[int]] = {}
        for v in found:
            if v.bad:
                kinds.setdefault(f"{v.outcome}: {v.words[:230]!r}", []).append(v.number)
        for k, n in sorted(kinds.items(), key=lambda i: -len(i[1])):
            print(f"   {len(n):>5} x {k}   e.g. {n[:3]}")
    return 0

if __name__ == "__main__":
    sys.exit(main())
