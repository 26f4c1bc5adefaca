"""Makes the page of one text's attention, one file that needs nothing else.

All text goes into the page as JSON, which the script writes as text, never as HTML. The page's own
policy allows its one style and its one script, by their hashes, and nothing from elsewhere.
"""

import base64
import hashlib
import html
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

import bertbatch
from bertbatch.attention.inspect import Inspection
from bertbatch.display.answers import spelled
from bertbatch.display.lines import show
from bertbatch.display.peek_page.weights import packed
from bertbatch.errors import JobError
from bertbatch.registry import STATISTICS
from bertbatch.statistics.statistic import Statistic

FOLDER = Path(__file__).parent
MOST_TOKENS = 128  # shown: more cannot be read, and their weights would make files of 50 MB
MOST_CHARACTERS = 2000  # of a text that is shown above its tokens
MARK = "<!-- bertbatch peek -->"  # how a page is known again


@dataclass(frozen=True)
class Shown:
    """What a page is of. Where it starts: a token, and a head (layer, head), all from 0."""

    texts: list[str]
    model: str
    inspection: Inspection
    token: int
    head: tuple[int, int]


def write_page(shown: Shown, path: Path) -> None:
    """Writes the page. It replaces a file only if that is such a page, too.

    Raises JobError if there is any other file, if it cannot be written, and for a start outside the
    tokens that a page shows.
    """
    if shown.token >= MOST_TOKENS:
        raise JobError(
            f"--token: token {shown.token + 1} is beyond the {MOST_TOKENS} that a page shows; "
            "leave --html out"
        )
    text = page(shown)
    try:
        if path.exists() and not _is_page(path):
            raise JobError(
                f"--html {path}: it exists and is not a page of bertbatch peek; name another file"
            )
        path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:  # a path with a NUL is no value
        why = getattr(error, "strerror", None) or error
        raise JobError(f"--html {path}: cannot be written: {why}") from error
    n = len(shown.inspection.tokens)
    cut = f"; it shows the first {MOST_TOKENS} of {n:,} tokens" if n > MOST_TOKENS else ""
    show("", f"page written to {path}{cut}")


def _is_page(path: Path) -> bool:
    if not path.is_file():  # a pipe would wait for its writer
        return False
    with open(path, "rb") as file:
        return MARK.encode() in file.read(100)


def page(shown: Shown) -> str:
    style, script = (_file(name) for name in ("page.css", "page.js"))
    return Template(_file("page.html")).substitute(
        mark=MARK,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        title=html.escape(_cut(" ".join(" · ".join(shown.texts).split()), 60)),
        version=html.escape(bertbatch.__version__),
        data=as_json(contents(shown)),
    )


def contents(shown: Shown) -> dict[str, Any]:
    """What the script shows; `page.js` says what each entry is."""
    inspection = shown.inspection
    layers, heads, n, _ = inspection.weights.shape
    count = min(n, MOST_TOKENS)
    weights = inspection.weights[:, :, :count, :count]
    rest = inspection.weights[:, :, :count, count:].sum(-1)
    return {
        "texts": [_cut(text, MOST_CHARACTERS) for text in shown.texts],
        "model": shown.model,
        "answer": [[name, spelled(value)] for name, value in inspection.answer.items()],
        "classes": _classes(inspection),
        "warning": "; ".join(inspection.warnings),
        "tokens": inspection.tokens[:count],
        "content": [bool(is_content) for is_content in inspection.content[:count]],
        "pairStart": min(inspection.pair_start, count),
        "unshown": n - count,
        "layers": layers,
        "heads": heads,
        "weights": packed(weights),
        "rest": packed(rest),
        "statistics": [
            {"name": name, "meaning": _meaning(name), "values": _numbers(values)}
            for name, values in inspection.statistics.items()
        ],
        "start": {"token": shown.token, "layer": shown.head[0], "head": shown.head[1]},
    }


def as_json(data: Any) -> str:
    """JSON that may stand in a script element: ASCII, without the characters that end one."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _classes(inspection: Inspection) -> list[list[Any]]:
    """The score of each class, if the answer has one for each."""
    scores = inspection.answer.get("scores")
    if not isinstance(scores, list) or len(scores) != len(inspection.labels):
        return []
    return [
        [label, score if math.isfinite(score) else None]
        for label, score in zip(inspection.labels, scores, strict=True)
    ]


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(f"{x:.4g}") if math.isfinite(x) else None for x in values.ravel().tolist()]


def _meaning(name: str) -> str:
    """What a statistic says: the first line of its module."""
    kind: type[Statistic] = STATISTICS[name].load()
    return (sys.modules[kind.__module__].__doc__ or "").partition("\n")[0]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
