"""Benchmarks one family of ops: `python bench/run.py --op hog`; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not

from ssl_fast.bench.runner import main

if __name__ == "__main__":
    sys.exit(main())
