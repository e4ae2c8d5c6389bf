"""`ssl-fast bench` from a checkout, installed or not: `python bench/run.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ssl_fast.bench.command import main

if __name__ == "__main__":
    sys.exit(main())
