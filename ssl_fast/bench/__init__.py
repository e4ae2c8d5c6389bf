"""The benchmark harness: what an op costs next to its reference and to what people use today.

A family of ops adds one file to `cases/`; `python bench/run.py --op <family>` does the rest.
Nothing here is imported by `import ssl_fast`.
"""
