"""Draws the pictures of the documents from the packaged model's own weights.

`python -m recipes.pictures [FOLDER]` writes them to docs/images/. Pictures of pages need Chromium;
without one they are left as they are.
"""

import html
import itertools
import math
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

import bertbatch
from bertbatch import Job
from bertbatch.attention.inspect import Inspection, inspect_text
from bertbatch.display.peek_page.page import Shown, write_page
from bertbatch.job.model import Model
from bertbatch.model.loading import load
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.report.page import write_report
from recipes.palette import with_palette

FOLDER = Path(__file__).parent.parent / "docs" / "images"
REVIEWS = FOLDER.parent.parent / "examples" / "reviews.csv"
TIRED = "The cat left the mat because it was too tired."
WET = "The cat left the mat because it was too wet."
PAIR = ("The cat was asleep on the mat.", "A cat slept on a rug.")
REFERS = (3, 1)  # layer and head, from 0
ALIGNS = (2, 9)
LEVELS = 8  # shades of a map
LOW, HIGH = (255, 255, 255), (0, 34, 78)  # the colours of weights 0 and 1
WIDTH = 1280  # of a page's picture


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / name).write_text(draw())
    program = shutil.which("chromium")
    if program is None:
        print("there is no chromium: peek.png and report.png are left as they are")
    else:
        photograph(program, peek_page, 900, folder / "peek.png")
        photograph(program, report_page, 925, folder / "report.png")


def softmax() -> str:
    """The scores and the weights of one token in one head."""
    layer, head = REFERS
    found = inspect_text(Model(), WET)
    query = found.query("it")
    scores, weights = scores_of(WET, layer, head)[query], found.weights[layer, head, query]
    row, parts = 24, []
    for j, token in enumerate(found.tokens):
        y = 50 + row * j
        bar = 110 * abs(scores[j]) / abs(scores).max()
        parts += [
            text(110, y + 12, token, "end"),
            box(250 if scores[j] >= 0 else 250 - bar, y, bar, 16, "#8a9bb5"),
            text(372, y + 12, f"{scores[j]:.2f}", "start", 12),
            box(440, y, 400 * weights[j], 16, colour(math.sqrt(weights[j]))),
            text(446 + 400 * weights[j], y + 12, f"{weights[j]:.2f}", "start", 12),
        ]
    parts += [
        text(250, 28, "score q·k / √d", "middle"),
        text(440, 28, "weight, after softmax", "start"),
    ]
    return picture(640, 60 + row * len(found.tokens), parts)


def heads() -> str:
    """The maps of all heads for one sentence."""
    found = inspect_text(Model(), TIRED)
    layers, count, n, _ = found.weights.shape
    cell, step = 4, 4 * n + 8
    paths: dict[int, list[str]] = defaultdict(list)
    parts = []
    for layer in range(layers):
        parts.append(text(34, 40 + step * layer + 2 * n, str(layer + 1), "end"))
        for head in range(count):
            left, top = 44 + step * head, 34 + step * layer
            parts.append(f'<rect x="{left}" y="{top}" width="{cell * n}" height="{cell * n}"/>')
            levels = np.rint(np.sqrt(found.weights[layer, head]) * LEVELS).astype(int)
            for i, j, run in runs(levels):
                wide = cell * run
                paths[levels[i, j]].append(
                    f"M{left + cell * j} {top + cell * i}h{wide}v{cell}h-{wide}"
                )
    parts = [f'<g fill="none" stroke="#c9cdd6">{"".join(parts)}</g>']
    for level, drawn in sorted(paths.items()):
        parts.append(f'<path fill="{colour(level / LEVELS)}" d="{"".join(drawn)}"/>')
    parts += [text(44 + step * head + 2 * n, 26, str(head + 1), "middle") for head in range(count)]
    parts += [
        text(44 + step * count / 2, 10, "head", "middle", 11),
        text(34, 26, "layer", "end", 11),
    ]
    return picture(44 + step * count + 4, 34 + step * layers + 4, parts)


def runs(levels: np.ndarray) -> Iterable[tuple[int, int, int]]:
    """Neighbours of one level in a row, other than zero: the row, the first, how many."""
    for i, row in enumerate(levels):
        edges = [0, *(np.flatnonzero(np.diff(row)) + 1), len(row)]
        for first, stop in itertools.pairwise(edges):
            if row[first]:
                yield i, first, stop - first


def reference() -> str:
    """One head's lines from one word, in two sentences."""
    parts = []
    for k, sentence in enumerate((TIRED, WET)):
        found = inspect_text(Model(), sentence)
        parts += lines(found, REFERS, 380 * k, [found.query("it")])
    return picture(760, 30 + 22 * len(found.tokens), parts)


def pair() -> str:
    """One head's lines from the first text of a pair to the second."""
    found = inspect_text(Model(), *PAIR)
    return picture(
        420, 30 + 22 * len(found.tokens), lines(found, ALIGNS, 20, range(found.pair_start))
    )


PICTURES: dict[str, Callable[[], str]] = {
    "softmax.svg": softmax,
    "heads.svg": heads,
    "reference.svg": reference,
    "pair.svg": pair,
}


def scores_of(sentence: str, layer: int, head: int) -> np.ndarray:
    """The scores q·k / √d of one head, [n, n], from the model's own matrices."""
    import torch

    spec = check_model(Model())
    model = load(spec, "cpu", "float32", "eager")
    inputs = get_tokenizer(spec).python(sentence, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs, output_hidden_states=True).hidden_states[layer][0]
        attention = model.bert.encoder.layer[layer].attention.self
        query, key = attention.query(states), attention.key(states)
    size = attention.attention_head_size
    mine = slice(size * head, size * (head + 1))
    return np.asarray(query[:, mine] @ key[:, mine].T / math.sqrt(size))


def lines(
    found: Inspection, head: tuple[int, int], left: float, queries: Iterable[int]
) -> list[str]:
    """Two columns of tokens, with a line for each weight of some tokens."""
    weights = found.weights[head]
    parts = []
    for i in queries:
        for j, weight in enumerate(weights[i]):
            if weight >= 0.01:
                parts.append(
                    f'<line x1="{left + 136:g}" y1="{line(i)}" x2="{left + 244:g}" y2="{line(j)}" '
                    f'stroke="#00407a" stroke-opacity="{math.sqrt(weight):.2f}" '
                    f'stroke-width="{1 + 4 * weight:.1f}"/>'
                )
    for i, token in enumerate(found.tokens):
        parts.append(text(left + 130, line(i) + 5, token, "end"))
        parts.append(text(left + 250, line(i) + 5, token, "start"))
    return parts


def line(token: int) -> int:
    return 26 + 22 * token


def peek_page(folder: Path) -> Path:
    """The page of the pair."""
    path = folder / "page.html"
    found = inspect_text(Model(), *PAIR, with_statistics=True)
    token = found.query("asleep")
    write_page(Shown(list(PAIR), "sentiment-mini", found, token, ALIGNS), path)
    return path


def report_page(folder: Path) -> Path:
    """Two sections of the report on the packaged English reviews: labels, attention."""
    job = Job.build(
        {
            "input": {"path": str(REVIEWS), "where": "lang = 'en'"},
            "output": {"path": str(folder / "reviews")},
            "model": {"dtype": "float32"},
            "attention": {"per_row": False},
            "runtime": {"runner": "inline"},
        }
    )
    path = folder / "report.html"
    write_report(bertbatch.run(job).output, path, None, None, None)
    hidden = r'<section id="(?!labels|attention).*?</section>'
    path.write_text(re.sub(hidden, "", path.read_text(), flags=re.S))
    return path


def photograph(program: str, make: Callable[[Path], Path], height: int, to: Path) -> None:
    """A page in a window of a fixed size."""
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder))
        subprocess.run(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{height}"),
                *(f"--screenshot={to.resolve()}", path.as_uri()),
            ],
            check=True,
            capture_output=True,
        )
    to.write_bytes(with_palette(to.read_bytes()))


def picture(width: float, height: float, parts: list[str]) -> str:
    """An SVG on white, as pages in the dark show it, too."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def text(x: float, y: float, words: str, anchor: str, size: int = 14) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" stroke="none" '
        f'fill="#1b1d22">{html.escape(words)}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    return f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{height}" fill="{fill}"/>'


def colour(share: float) -> str:
    """From white to dark blue."""
    mixed = (round(low + (high - low) * share) for low, high in zip(LOW, HIGH, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)


if __name__ == "__main__":
    main()
