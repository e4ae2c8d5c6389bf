"""Benchmarks whole training steps: `python bench/step.py --methods mae,maskfeat`; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout, installed or not

from ssl_fast.bench.step import main

if __name__ == "__main__":
    sys.exit(main())
