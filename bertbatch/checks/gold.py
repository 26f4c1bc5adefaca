"""The right answers of rows, which a carried column has, in the model's terms."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.checks.answers import Answers, read_columns
from bertbatch.errors import JobError
from bertbatch.wording import shorten

MOST_VALUES = 10_000  # different ones of a gold column; a column with more holds no labels
_INTEGER = r"^[+-]?\d{1,9}$"


@dataclass(frozen=True)
class Gold:
    """Which label each value of the gold column means.

    `by` is "label" if values are labels' names, "id" if they are labels' places in the model's
    order, from 0. `codes` int64 [values]: the label's place among `labels`.
    """

    column: str
    by: str
    labels: tuple[str, ...]
    values: pa.Array
    codes: np.ndarray

    def single(self, column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """The label's place in each row, int64 [rows], −1 without gold; which have it, bool."""
        codes = self._codes(plain_text(column))
        return codes, codes >= 0

    def several(self, column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
        """Which labels each row has, bool [rows, labels], and which rows have gold, bool [rows]."""
        rows, texts = _split(column)
        member = np.zeros((len(column), len(self.labels)), bool)
        codes = self._codes(texts)
        member[rows[codes >= 0], codes[codes >= 0]] = True
        return member, column.is_valid().to_numpy()

    def _codes(self, texts: pa.Array) -> np.ndarray:
        place = pc.fill_null(pc.index_in(texts, value_set=self.values), -1).to_numpy()
        found: np.ndarray = np.append(self.codes, -1)[place]
        return found


def read_gold(
    answers: Answers, parts: Sequence[str], column: str, damaged: dict[str, str] | None = None
) -> Gold:
    """What the values of a gold column mean, from a first look at all of them.

    `damaged`: as for `read_parts`.

    Raises JobError if the column is not there, has no values, or has one that is no label.
    """
    answers.check_there(column)
    several = answers.kind == "multi_label"
    values = _distinct(_texts(answers, parts, column, damaged), column, several)
    if not len(values):
        raise JobError(f"--gold {column}: no committed row of {answers.output.path} has a value")
    labels = answers.labels
    places = pc.fill_null(pc.index_in(values, value_set=pa.array(labels, pa.string())), -1)
    codes = places.to_numpy().astype(np.int64)
    if (codes >= 0).all():
        return Gold(column, "label", labels, values, codes)
    if _are_ids(values, labels):
        return Gold(column, "id", labels, values, values.cast(pa.int64()).to_numpy())
    unknown = sorted(values.filter(pa.array(codes < 0)).to_pylist())
    raise JobError(
        f"--gold {column}: {shorten([repr(value) for value in unknown])}: no label of the model, "
        f"which has {shorten([repr(label) for label in labels])}; carry a column whose values are "
        "these names, or their places in this order from 0"
    )


def _are_ids(values: pa.Array, labels: Sequence[str]) -> bool:
    """Whether all values are places of labels, and no label is itself a number."""
    if any(label.lstrip("+-").isdigit() for label in labels):
        return False
    if not pc.all(pc.match_substring_regex(values, _INTEGER)).as_py():
        return False
    ids = values.cast(pa.int64()).to_numpy()
    return bool(((ids >= 0) & (ids < len(labels))).all())


def _texts(
    answers: Answers, parts: Sequence[str], column: str, damaged: dict[str, str] | None
) -> Iterator[pa.Array]:
    several = answers.kind == "multi_label"
    for table in read_columns(answers.output, parts, [column], damaged):
        yield _split(table[column])[1] if several else plain_text(table[column])


def _distinct(texts: Iterator[pa.Array], column: str, several: bool) -> pa.Array:
    found = pa.array([], pa.string())
    for each in texts:
        found = pc.unique(pa.concat_arrays([found, pc.unique(each.drop_null())]))
        if len(found) > MOST_VALUES:
            kind = "several labels" if several else "a label"
            raise JobError(
                f"--gold {column}: more than {MOST_VALUES:,} different values; name a column with "
                f"{kind} in each row"
            )
    return found


def plain_text(column: pa.ChunkedArray) -> pa.Array:
    """Values as text, [rows]. Whole numbers that are stored as fractions lose their ".0".

    Raises JobError for a column of lists, structs or the like.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = array.type
    if pa.types.is_dictionary(kind):
        return plain_text(array.cast(kind.value_type))
    if pa.types.is_floating(kind):  # whole numbers beside nulls, as pandas writes them
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, kind), array)
        whole = array.drop_null()
        if pc.all(pc.equal(whole, pc.floor(whole))).as_py() is not False:
            array = array.cast(pa.int64(), safe=False)
    try:
        return array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise JobError(f"a column of {kind} has no labels: {error}") from error


def _split(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """The labels of all rows, each with its row: of lists, or of texts such as "a, b"."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_list(array.type) and not pa.types.is_large_list(array.type):
        texts = plain_text(array)
        array = pc.split_pattern(texts, ",")
    parents = pc.list_parent_indices(array).to_numpy()
    texts = pc.utf8_trim_whitespace(plain_text(array.flatten()))
    kept = pc.fill_null(pc.not_equal(texts, ""), False)
    return parents[kept.to_numpy(zero_copy_only=False)], texts.filter(kept)


def numbers(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Gold numbers, float64 [rows]; NaN where there is none. Raises JobError for other values."""
    try:
        array = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise JobError(
            f"--gold {name}: its values are not numbers, and the model gives numbers: {error}"
        ) from error
    found: np.ndarray = array.to_numpy()
    return found
