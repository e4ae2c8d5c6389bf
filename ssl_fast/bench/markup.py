"""HTML of the page of results: its style, its tables. No script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from .digest import file_name

Cells = Sequence[tuple[str, str]]

STYLE = """\
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --ours: #1a8f6a; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 0 auto;
  padding: 0 14px 60px; }
h1 { margin-bottom: .4em; }
h2 { margin-top: 2.2em; border-bottom: 1px solid var(--line); }
p { max-width: 80ch; }
a { color: inherit; }
.wide { overflow-x: auto; margin: 8px 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 9px; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; background: var(--soft); white-space: normal; vertical-align: bottom; }
tr.ours { color: var(--ours); font-weight: 600; }
th.text, td.text { text-align: left; }
td.long { white-space: normal; min-width: 24ch; }
.plots { display: grid; gap: 22px 24px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
figure { margin: 0; min-width: 0; }
figure:has(details[open]) { grid-column: 1 / -1; }
figcaption { font-weight: 600; font-size: 13px; }
svg { width: 100%; max-width: 560px; height: auto; display: block; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
summary { cursor: pointer; font-size: 13px; }
.bad { color: #c8372d; font-weight: 600; }
"""


def document(title: str, about: str, bodies: Mapping[str, str]) -> str:
    """A page: what it is about, links to its parts, the parts by their headings."""
    links = " · ".join(f'<a href="#{file_name(name)}">{escape(name)}</a>' for name in bodies)
    sections = "\n".join(
        f'<h2 id="{file_name(name)}">{escape(name)}</h2>\n{body}' for name, body in bodies.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{about}\n<p>{links}</p>\n{sections}\n</body>\n</html>\n"
    )


def table(head: Cells, lines: Sequence[Cells], classes: Sequence[str] = ()) -> str:
    """A table that scrolls sideways where it is too wide.

    Args:
        head: of the columns: (text, class); none if empty.
        lines: of cells of the same kind.
        classes: of the lines.
    """

    def line(tag: str, cells: Cells, kind: str = "") -> str:
        inside = "".join(f"<{tag}{_class(of)}>{escape(text)}</{tag}>" for text, of in cells)
        return f"<tr{_class(kind)}>{inside}</tr>"

    kinds = classes or [""] * len(lines)
    body = [line("td", cells, kind) for cells, kind in zip(lines, kinds, strict=True)]
    top = [line("th", head)] if head else []
    return "\n".join(['<div class="wide"><table>', *top, *body, "</table></div>"])


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def figure(caption: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    return f"<figure>\n<figcaption>{escape(caption)}</figcaption>\n{inside}\n</figure>"


def grid(figures: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return '<div class="plots">\n' + "\n".join(figures) + "\n</div>" if figures else ""


def folded(content: str, opened: bool) -> str:
    """What opens at a click."""
    word = "<details open>" if opened else "<details>"
    return f"{word}<summary>table</summary>\n{content}\n</details>"


def cell(value: object) -> str:
    """A number with four digits, or whatever else."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "" if value is None else str(value)
