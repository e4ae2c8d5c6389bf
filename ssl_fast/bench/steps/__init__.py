"""Whole training steps: with our kernels, with references, and as other libraries do them.

What a kernel gains counts by its share of a step. `sizes` has the methods and how large they are,
`entrants` who takes part, `spans` finds what the hot paths take of a step, `measure` compares the
losses and takes the times, `command` is `ssl-fast bench steps`.
"""
