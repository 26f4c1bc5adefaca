"""Charts as SVG, drawn by matplotlib.

Their colours are those of the page, so that a dark page has dark charts, and the same figures give
the same bytes.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import numpy as np

from bertbatch.errors import JobError
from bertbatch.report.blocks import Chart, Table, shown

SIZE = (4.9, 2.9)  # inches at 72 dots
# Stand-ins that matplotlib draws with, and the page's colours that they become.
COLORS = {
    "#010101": "var(--ink)",
    "#020202": "var(--faint)",
    "#030303": "var(--mark)",
    "#040404": "var(--second)",
    "#050505": "var(--paper)",
}
INK, FAINT, MARK, SECOND, PAPER = COLORS
# Of several lines: told apart by their dashes as well, not by colors alone.
SERIES = ((MARK, "-"), (SECOND, "--"), (INK, ":"), (MARK, "-."), (SECOND, (0, (1, 1))))
BARS = 20  # of a chart of names
LABEL = 24  # characters of a name beside a bar


def check_installed() -> None:
    """Raises JobError if there is no matplotlib or jinja2."""
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise JobError(
            f"{error.name} is not installed, which draws reports: pip install 'bertbatch[report]'"
        ) from error
    del jinja2


def bars(
    caption: str, names: Sequence[str], values: Sequence[float], what: str, *, form: str = "{:,.0f}"
) -> Chart:
    """Horizontal bars, one for each name, and a table of all of them."""

    def draw(axes: Any) -> None:
        few = list(zip(names, values, strict=True))[:BARS][::-1]
        places = np.arange(len(few))
        axes.barh(places, [value for _, value in few], color=MARK, height=0.7)
        axes.set_yticks(places, [shown(name, LABEL) for name, _ in few])
        axes.set_xlabel(what)
        axes.set_xlim(left=0)

    height = 0.9 + 0.26 * max(min(len(names), BARS), 3)
    rows = [(shown(name), form.format(value)) for name, value in zip(names, values, strict=True)]
    table = Table(f"{caption}: table", ("", what), rows, (1,), folded=True)
    return Chart(caption, drawing(draw, (SIZE[0], height)), table)


def histogram(
    caption: str, edges: np.ndarray, counts: np.ndarray, what: str, of: str = "rows"
) -> Chart:
    """Counts [n] between edges [n + 1]."""

    def draw(axes: Any) -> None:
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=MARK)
        axes.set_xlabel(what)
        axes.set_ylabel(of)
        axes.set_xlim(edges[0], edges[-1])

    rows = [
        (f"{low:.4g} to {high:.4g}", f"{number:,}")
        for low, high, number in zip(edges[:-1], edges[1:], counts.tolist(), strict=True)
    ]
    table = Table(f"{caption}: table", (what, of), rows, (1,), folded=True)
    return Chart(caption, drawing(draw), table)


def as_days(axes: Any) -> None:
    """Gives the x axis a few ticks at days or times."""
    from matplotlib import dates

    made: Any = dates  # its functions have no types
    locator = made.AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(made.ConciseDateFormatter(locator))


def whole_numbers() -> Any:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(integer=True)


def heatmap_colors(around_zero: bool = False) -> list[tuple[str, str]]:
    """The colors of a heatmap from its smallest value to its largest, each with that of letters.

    32 of cividis, which is read alike by people who see no red or no green: Nuñez, Anderton &
    Renslow 2018, https://doi.org/10.1371/journal.pone.0199239. `around_zero`: 33 from purple over
    white to orange, which they tell apart as well: PuOr, Harrower & Brewer 2003,
    https://colorbrewer2.org.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    name, count = ("PuOr_r", 33) if around_zero else ("cividis", 32)
    colors = [colormaps[name](place) for place in np.linspace(0, 1, count)]
    # As bright as an eye takes them: Rec. 601.
    bright = [0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue, _ in colors]
    return [
        (to_hex(color), "#000" if light > 0.5 else "#fff")
        for color, light in zip(colors, bright, strict=True)
    ]


def drawing(draw: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """The SVG of what a function draws on axes."""
    with _settings() as plt:
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        try:
            draw(axes)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            data = io.StringIO()
            figure.savefig(data, format="svg", transparent=True, metadata={"Date": None})
        finally:
            plt.close(figure)
    return inline(data.getvalue())


def inline(svg: str) -> str:
    """An SVG file as a part of a page: colours of the page, ids that no other chart has."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)  # would count for the whole page
    prefix = f"c{sha256(svg.encode()).hexdigest()[:8]}-"

    def of_page(tag: re.Match[str]) -> str:
        found = tag[0]
        for stand_in, color in COLORS.items():
            found = found.replace(stand_in, color)
        found = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", found)
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}", found)

    svg = re.sub(r"<[^>]*>", of_page, svg)  # tags alone: a label may look like anything
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


@contextmanager
def _settings() -> Iterator[Any]:
    """matplotlib with the style of this page."""
    style = {
        "figure.dpi": 72,
        "font.size": 10,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.4,
        "lines.color": MARK,
        "legend.frameon": False,
        "legend.labelcolor": INK,
    }
    with plotting(style) as plt:
        yield plt


@contextmanager
def plotting(style: dict[str, Any] | None = None) -> Iterator[Any]:
    """matplotlib's plotting functions, without a window."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",  # letters stay letters
        "svg.hashsalt": "bertbatch",
        "text.parse_math": False,  # a label may have dollars in it
        "image.cmap": "cividis",
        **(style or {}),
    }
    with matplotlib.rc_context(settings):
        yield plt
