"""Data loading: what masks made in Python cost a loader, and what those of `ssl_fast.host` do.

`data` has the pictures and who makes masks, `measure` counts what they masked and takes the times,
`command` is `ssl-fast bench loader`.
"""
