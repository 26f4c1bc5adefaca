"""The attention statistics of a corpus, for every head.

They are the aggregates of its units, merged in any order.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.attention.aggregates import (
    ALL,
    BINS,
    COLUMN,
    LABEL,
    LENGTH,
    SUMS,
    WEIGHTS,
    of_model,
)
from bertbatch.errors import JobError
from bertbatch.output.contract import stored_heads, stored_models
from bertbatch.output.folder import Output
from bertbatch.output.records import reading

KINDS = (ALL, LABEL, LENGTH, COLUMN)
READING = 64  # units' files in memory at the same time
Key = tuple[str, str, str]  # kind of group, its value, statistic


@dataclass
class Corpus:
    """The aggregates merged so far; `keys` has the place of each in arrays [n, layers · heads].

    `grouped_by`: the column whose values are groups of the kind "column".
    """

    layers: int
    heads: int
    tops: dict[str, float]  # the statistics, each with the end of its histogram
    grouped_by: str | None = None
    keys: dict[Key, int] = field(default_factory=dict)
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        width = self.layers * self.heads
        for name in ("rows", "tokens"):
            self._arrays[name] = np.zeros(0)
        for name in (*SUMS, "min", "max"):
            self._arrays[name] = np.zeros((0, width))
        self.histograms = {name: np.zeros((width, BINS), np.int64) for name in self.tops}

    def add(self, aggregates: pa.Table) -> None:
        """Merges a unit's aggregates: Chan, Golub & LeVeque 1979, formulas 2.1."""
        if not aggregates.num_rows:
            return
        group, value, statistics = (
            aggregates[name].to_pylist() for name in ("group", "value", "statistic")
        )
        keys = list(zip(group, value, statistics, strict=True))
        at = np.array([self._place(key) for key in keys])
        mine = self._arrays
        for weight, mean, m2 in WEIGHTS:
            a, b = mine[weight][at], aggregates[weight].to_numpy().astype(np.float64)
            whole = a + b
            off = _matrix(aggregates, mean) - mine[mean][at]
            mine[mean][at] += off * (b / whole)[:, None]
            mine[m2][at] += _matrix(aggregates, m2) + off * off * (a * b / whole)[:, None]
            mine[weight][at] = whole
        mine["min"][at] = np.minimum(mine["min"][at], _matrix(aggregates, "min"))
        mine["max"][at] = np.maximum(mine["max"][at], _matrix(aggregates, "max"))
        for statistic, bins in zip(statistics, aggregates["histogram"], strict=True):
            if bins.is_valid:
                counts = bins.values.to_numpy().reshape(-1, BINS)
                self.histograms[statistic] += counts

    def aggregate(self, key: Key) -> dict[str, Any]:
        """The columns of an aggregate: "rows" and "tokens" numbers, the others [layers · heads]."""
        return {name: array[self.keys[key]] for name, array in self._arrays.items()}

    def groups(self, kind: str) -> list[str]:
        """The values of the groups of one kind."""
        values = {value for group, value, _ in self.keys if group == kind}
        return sorted(values, key=lambda value: _natural(kind, value))

    def kind(self, name: str) -> str:
        """The kind of group that a name means, which may be the grouping column's own."""
        return COLUMN if name == self.grouped_by and name not in KINDS else name

    def called(self, kind: str) -> str:
        """A kind of group as it is shown: the grouping column has a name."""
        return self.grouped_by if kind == COLUMN and self.grouped_by else kind

    @property
    def kinds(self) -> str:
        """The names that a group may have, for messages."""
        also = f" (which is '{self.grouped_by}')" if self.grouped_by else ""
        return f"{', '.join(KINDS)}{also}"

    def tidy(self) -> pa.Table:
        """One row for each group, statistic, layer and head."""
        order = sorted(self.keys, key=lambda key: (key[0], _natural(*key[:2]), key[2]))
        at = np.array([self.keys[key] for key in order], np.int64)
        width = self.layers * self.heads
        mine = {name: array[at] for name, array in self._arrays.items()}
        columns: dict[str, Any] = {
            name: pa.array(np.repeat([key[i] for key in order], width), pa.string())
            for i, name in enumerate(("group", "value", "statistic"))
        }
        head = np.tile(np.arange(width, dtype=np.int32), len(order))
        columns |= {"layer": head // self.heads + 1, "head": head % self.heads + 1}
        for weight, mean, m2 in WEIGHTS:
            spread = np.sqrt(mine[m2] / np.maximum(mine[weight], 1)[:, None])
            columns[weight] = np.repeat(mine[weight].astype(np.int64), width)
            columns[mean] = mine[mean].ravel()
            columns[mean.replace("mean", "std")] = spread.ravel()
        columns |= {name: mine[name].astype(np.float32).ravel() for name in ("min", "max")}
        absent = np.repeat([key[0] != ALL for key in order], width)
        bins = pa.list_(pa.int64(), BINS)
        counts = [
            pa.FixedSizeListArray.from_arrays(self.histograms[key[2]].ravel(), BINS).cast(bins)
            if key[0] == ALL
            else pa.nulls(width, bins)
            for key in order
        ]
        columns["histogram"] = pa.chunked_array(counts, bins)
        tops = np.repeat([self.tops[key[2]] for key in order], width)
        columns["histogram_top"] = pa.array(tops, pa.float64(), mask=absent)
        return pa.table(columns)

    def _place(self, key: Key) -> int:
        if key not in self.keys:
            self.keys[key] = len(self.keys)
            for name, array in self._arrays.items():
                empty = {"min": np.inf, "max": -np.inf}.get(name, 0)
                if len(array) < len(self.keys):  # grows to twice the size and 16 more
                    more = np.full((len(array) + 16, *array.shape[1:]), empty, array.dtype)
                    self._arrays[name] = np.concatenate([array, more])
        return self.keys[key]


def read_corpus(output: Output, model: str | None = None) -> Corpus:
    """Merges the aggregates of every committed unit.

    `model`: whose, by what its columns begin with, if there are several. Raises JobError if there
    are none.
    """
    contract = attention_contract(output)
    model = which_model(output, contract, model)
    found = stored_heads(contract, model)
    grouped_by = contract["attention"].get("group_by")
    corpus = Corpus(found["layers"], found["heads"], found["statistics"], grouped_by)
    for aggregates in _stored(output, sorted(output.committed().values())):
        with reading(f"{output.path}: a file of statistics"):
            corpus.add(of_model(aggregates, model))
    if not corpus.keys:
        raise JobError(f"{output.path} has no committed statistics yet; run its job first")
    return corpus


def attention_contract(output: Output) -> dict[str, Any]:
    """The contract of an output. Raises JobError if there is none, or none with statistics."""
    contract = output.existing_contract()
    if contract.get("attention") is None:
        raise JobError(
            f"{output.path} was scored without attention statistics; score into a new folder "
            "with --attention, or with a section `attention` in the job file"
        )
    return contract


def which_model(output: Output, contract: dict[str, Any], model: str | None) -> str:
    """The model that is meant. Raises JobError if there are several, or no such one."""
    models = stored_models(contract)
    if model is None and "" in models:
        return ""
    if model in models and model:
        return model
    if "" in models:
        raise JobError(f"{output.path} was scored with one model; leave '{model}' out")
    there = f"{output.path} was scored with the models {', '.join(models)}"
    raise JobError(f"{there}; name one" if model is None else f"{there}, and not with '{model}'")


def _stored(output: Output, parts: Sequence[str]) -> Iterator[pa.Table]:
    """The aggregates of each part that has some; a part's footer names their file."""

    def load(part: str) -> pa.Table | None:
        try:
            footer = output.footer(part) or {}
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise JobError(
                f"{output.at(part)} is not a part of bertbatch: {error}; run bertbatch verify"
            ) from error
        path = footer.get("side_files", {}).get("attention")
        if path is None:
            return None
        try:
            return output.side(path)
        except (OSError, pa.ArrowException) as error:
            raise JobError(
                f"{output.at(path)}, which {part} names, cannot be read: {error}; run bertbatch "
                "verify"
            ) from error

    with ThreadPoolExecutor(8) as pool:
        for first in range(0, len(parts), READING):
            yield from (t for t in pool.map(load, parts[first : first + READING]) if t is not None)


def _matrix(aggregates: pa.Table, name: str) -> np.ndarray:
    column = aggregates[name].combine_chunks()
    flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    matrix: np.ndarray = flat.reshape(len(column), -1)
    return matrix


def _natural(kind: str, value: str) -> tuple[int, str]:
    """Sorts ranges of lengths by number, everything else alphabetically."""
    return (int(value.partition("-")[0]) if kind == LENGTH else 0, value)
