"""The Python of docs/migrate.md, block by block, and whom it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "migrate.md"


class Block(NamedTuple):
    """One fenced block.

    Attributes:
        heading: under which it stands.
        needs: what follows "python" behind the fence, such as {"mmpretrain", "config"}.
        code: with lines before it, so that errors name lines of the page.
    """

    heading: str
    needs: frozenset[str]
    code: str


def blocks(*needs: str) -> list[Block]:
    """The blocks that need these, and nothing else."""
    return [block for block in all_blocks() if block.needs == frozenset(needs)]


def all_blocks() -> list[Block]:
    """In the order of the page."""
    found, heading = [], ""
    text = PAGE.read_text(encoding="utf-8")
    for match in re.finditer(r"^#+ (.*)$|^```python(.*)\n((?:(?!```).*\n)*)```$", text, re.M):
        if match[1] is not None:
            heading = match[1]
            continue
        before = "\n" * text[: match.start(3)].count("\n")
        found.append(Block(heading, frozenset(match[2].split()), before + match[3]))
    return found


def run(block: Block) -> dict[str, object]:
    """Executes it; returns its names."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec(compile(block.code, str(PAGE), "exec"), names)
    return names
