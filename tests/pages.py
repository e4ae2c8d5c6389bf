"""The Python of README and docs/migrate.md, block by block, and whom it needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
README, MIGRATE = ROOT / "README.md", ROOT / "docs" / "migrate.md"


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
    """The blocks of docs/migrate.md that need these, and nothing else."""
    return [block for block in all_blocks() if block.needs == frozenset(needs)]


def all_blocks(page: Path = MIGRATE) -> list[Block]:
    """In the order of the page."""
    found, heading = [], ""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^#+ (.*)$|^```python(.*)\n((?:(?!```).*\n)*)```$", text, re.M):
        if match[1] is not None:
            heading = match[1]
            continue
        before = "\n" * text[: match.start(3)].count("\n")
        found.append(Block(heading, frozenset(match[2].split()), before + match[3]))
    return found


def run(block: Block, **given: Any) -> dict[str, Any]:
    """Executes it, after what is given; returns its names."""
    names: dict[str, Any] = {"__name__": "__main__", **given}
    exec(compile(block.code, block.heading, "exec"), names)
    return names
