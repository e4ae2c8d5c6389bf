"""`python -m ssl_fast` is `ssl-fast`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
