"""What a page is made of: sections of sentences, tables, charts, heatmaps.

They are plain data. The template decides how they look, and escapes every text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

LONGEST = 300  # characters of a text that are shown
# What no page can show, or what would change the order of the text around it.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


@dataclass(frozen=True)
class Words:
    """A sentence or two."""

    text: str
    kind: str = "words"


@dataclass(frozen=True)
class Table:
    """Rows under a head. `numeric` are the places of columns with numbers.

    `folded` tables are opened by a click on their caption.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[int] = ()
    folded: bool = False
    wide: bool = False  # over the whole width of the page
    kind: str = "table"


@dataclass(frozen=True)
class Chart:
    """A drawing as SVG that is safe to stand in a page, and the same figures as a table."""

    caption: str
    svg: str
    table: Table | None = None
    kind: str = "chart"


@dataclass(frozen=True)
class Heatmap:
    """Layers × heads of one statistic and group, which are chosen on the page.

    `data` is what the page's script reads; the first statistic and group stand there without it.
    `note` says what the colors mean.
    """

    caption: str
    data: dict[str, Any]
    note: str = "The darkest cell is the smallest value, the brightest the largest."
    kind: str = "heatmap"


Block = Words | Table | Chart | Heatmap


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it."""

    id: str
    title: str
    blocks: list[Block] = field(default_factory=list)


def shown(text: object, longest: int = LONGEST) -> str:
    """A text as it is shown: one of many characters is cut, control characters are replaced."""
    given = str(text)
    cut = given[: longest - 1] + "…" if len(given) > longest else given
    cut = cut.encode(errors="replace").decode()  # half of a pair is no character
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", cut)


def whole(number: float) -> str:
    return f"{number:,.0f}"


def share(part: float, of: float) -> str:
    return f"{part / of:.1%}" if of else "–"
