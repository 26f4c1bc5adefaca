"""The plan's plain data: sources, cuts, units with their ids.

Nothing here reads a file. Planning makes these values, the stored plan keeps them, and every later
stage names its work by them.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Source:
    """One input file and its fingerprint.

    `id` is the path relative to the input's root, so that the same corpus mounted elsewhere has
    the same ids; `url` is where to open the file now. `stamp` is the store's etag, or the
    modification time in microseconds.
    """

    id: str
    url: str
    size: int
    stamp: str

    @property
    def fingerprint(self) -> str:
        return f"{self.size}-{self.stamp}"

    @property
    def path(self) -> str:
        """The URL without what it goes through: `zip://a.csv` of `zip://a.csv::s3://b/x.zip`."""
        if "://" not in self.url:
            return self.url
        return next(part for part in self.url.split("::") if "://" in part)


@dataclass(frozen=True, slots=True)
class Cut:
    """Consecutive rows of one source.

    `start` and `stop` say where the reader finds them: row groups for Parquet, record batches for
    Arrow (first, one past the last; the rows may be a part of them), byte offsets for formats of
    text (in the decompressed stream). `bytes` is the estimated size of the text and the carried
    columns. `line` is the number of the first row's line, counted from 1, where rows are lines.
    `selected`: how many of the rows are not left out by `input.where`, if that was counted.
    """

    first_row: int
    rows: int
    start: int
    stop: int
    bytes: int
    line: int = 0
    selected: int | None = None


def selected(cuts: Iterable[Cut]) -> int:
    """How many rows of some cuts are not left out, as far as that was counted."""
    return sum(cut.rows if cut.selected is None else cut.selected for cut in cuts)


@dataclass(frozen=True, slots=True)
class Span:
    """A cut with its source."""

    source: Source
    cut: Cut


@dataclass(frozen=True, slots=True)
class RetryRows:
    """Rows of a committed unit's quarantine to score again, each as (source id, row number)."""

    unit: str
    rows: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Repeats:
    """Those of a unit's texts that other units have, too.

    `hashes` of different texts; `file` int32 [texts] says in which of `files` the answer to each is
    stored.
    """

    hashes: "pa.Array"
    file: "np.ndarray"
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """The atom of work, retry and commit: one cut of a source, or several whole sources.

    With `retry`, only these rows of them, which another unit has in quarantine. What a run knows
    of repeated texts comes with the unit and is not stored. With `first_texts` int64 [texts] it is
    no unit of the plan: only the texts at these places are scored, for all units that have them.
    """

    id: str
    spans: tuple[Span, ...]
    retry: RetryRows | None = None
    repeats: Repeats | None = field(default=None, compare=False)
    first_texts: "np.ndarray | None" = field(default=None, compare=False)

    @property
    def rows(self) -> int:
        return len(self.retry.rows) if self.retry else self.new_rows

    @property
    def new_rows(self) -> int:
        """How many of its rows no other unit has."""
        return 0 if self.retry else sum(span.cut.rows for span in self.spans)

    @property
    def selected(self) -> int:
        """How many of the new rows are not left out, as far as that was counted."""
        return 0 if self.retry else selected(span.cut for span in self.spans)

    @property
    def bytes(self) -> int:
        return sum(span.cut.bytes for span in self.spans)

    @property
    def fingerprints(self) -> list[list[str]]:
        """The first hundred sources with their fingerprints, as a part's footer has them."""
        return [[span.source.id, span.source.fingerprint] for span in self.spans[:100]]

    @property
    def part(self) -> str:
        """The name of the output file, a function of the unit alone."""
        first = self.spans[0]
        stem = PurePosixPath(first.source.id).name.split(".")[0]
        readable = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem)[:60]
        readable = readable.encode()[:180].decode(errors="ignore")  # a name has 255 bytes at most
        return f"part-{readable}-{first.cut.first_row:010d}-{self.id}.parquet"


def unit_id(spans: tuple[Span, ...], scoring_fingerprint: str) -> str:
    """20 hex digits over what is scored (sources, fingerprints, rows) and how."""
    what = [
        [span.source.id, span.source.fingerprint, span.cut.first_row, span.cut.rows]
        for span in spans
    ]
    return digest([scoring_fingerprint, what])[:20]


def digest(value: object) -> str:
    """The SHA-256 of a JSON value in canonical form, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
