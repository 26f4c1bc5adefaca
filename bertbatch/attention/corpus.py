"""A corpus's statistics of every head: cells that are made for a unit and merge in any order.

A cell is one statistic over one group of rows, of all heads at once: counts, means, sums of
squared differences from the mean (M2), least, largest, and over all rows a histogram. Means
are there twice, of rows and of tokens: a row weighs one, or as much as its query tokens.
Groups are margins, not products: all rows, each label, each range of lengths, each value of
a carried column.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.errors import JobError
from bertbatch.output import Output
from bertbatch.scoring import Statistics

BINS = 32
ALL, LABEL, LENGTH, COLUMN = "all", "label", "length", "column"  # kinds of group
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # the last of each range, in tokens
MOST_VALUES = 1000  # of a column in a unit: each is a group
READING = 64  # units' files that are held at once
Key = tuple[str, str, str]  # kind of group, its value, statistic

# What a cell holds, [layers · heads] each; for each weight a mean and an M2.
WEIGHTS = (("rows", "mean", "m2"), ("tokens", "token_mean", "token_m2"))
SUMS = ("mean", "m2", "token_mean", "token_m2")


@dataclass(frozen=True)
class Group:
    """Rows of a unit that belong together: `member` bool [rows]."""

    kind: str
    value: str
    member: np.ndarray


def aggregate(
    names: Sequence[str], tops: Sequence[float], statistics: Statistics, groups: Sequence[Group]
) -> pa.Table:
    """A unit's cells, as they are stored.

    `names` and `tops` are the statistics' names and largest values. Rows that are not
    watched are in no cell; a text that stands for several rows weighs as many times.
    """
    watched = statistics.text >= 0
    texts = len(statistics.values)
    weights = np.array(
        [np.bincount(statistics.text[g.member & watched], minlength=texts) for g in groups]
    )
    # The others may hold what is no number: texts whose rows are in quarantine.
    used = weights.any(0)
    all_values, all_counts, weights = (
        statistics.values[used],
        statistics.counts[used],
        weights[:, used],
    )
    rows: list[dict[str, Any]] = []
    for k, name in enumerate(names):
        counts = all_counts[:, k].astype(np.float64)
        defined = counts > 0
        x = all_values[:, k].astype(np.float64)
        shift = x[defined].mean(0) if defined.any() else np.zeros(x.shape[1])
        y = x - shift  # near zero, so that squares lose nothing
        sums: dict[str, np.ndarray] = {}
        for (weight, mean, m2), each in zip(WEIGHTS, (defined * 1.0, counts), strict=True):
            w = weights * each
            total = w.sum(1)
            safe = np.maximum(total, 1)[:, None]
            first, second = w @ y, w @ (y * y)
            sums |= {weight: total, mean: shift + first / safe}
            sums[m2] = np.maximum(second - first * first / safe, 0)
        for i, group in enumerate(groups):
            if not sums["rows"][i]:
                continue
            inside = all_values[(weights[i] > 0) & defined, k]
            rows.append(
                {
                    **{"group": group.kind, "value": group.value, "statistic": name},
                    **{key: int(sums[key][i]) for key in ("rows", "tokens")},
                    **{key: sums[key][i] for key in SUMS},
                    **{"min": inside.min(0), "max": inside.max(0)},
                    "histogram": _histogram(all_values[:, k], weights[i] * defined, tops[k])
                    if group.kind == ALL
                    else None,
                }
            )
    return pa.Table.from_pylist(rows, cells_schema(statistics.values.shape[2]))


def cells_schema(heads: int) -> pa.Schema:
    """Of a unit's cells, for `heads` heads in all."""
    wide, narrow = pa.list_(pa.float64(), heads), pa.list_(pa.float32(), heads)
    return pa.schema(
        [
            *((name, pa.string()) for name in ("group", "value", "statistic")),
            *((name, pa.int64()) for name in ("rows", "tokens")),
            *((name, wide) for name in SUMS),
            *((name, narrow) for name in ("min", "max")),
            ("histogram", pa.list_(pa.int32(), heads * BINS)),
        ]
    )


def _histogram(values: np.ndarray, weights: np.ndarray, top: float) -> np.ndarray:
    """Weighted counts int32 [heads · BINS] of values [texts, heads], over 0 to `top`."""
    bins = np.clip((values * (BINS / top)).astype(np.int64), 0, BINS - 1)
    flat = bins + np.arange(values.shape[1]) * BINS
    each = np.broadcast_to(weights[:, None], values.shape)
    size = values.shape[1] * BINS
    counts: np.ndarray = np.bincount(flat.ravel(), each.ravel(), size).astype(np.int32)
    return counts


def length_groups(n_tokens: np.ndarray) -> list[Group]:
    place = np.searchsorted(LENGTHS, n_tokens)
    lows = (1, *(last + 1 for last in LENGTHS))
    names = [f"{low}-{last}" for low, last in zip(lows, LENGTHS, strict=False)]
    names.append(f"{lows[-1]}-")
    return [Group(LENGTH, names[i], place == i) for i in np.unique(place)]


def value_groups(kind: str, rows: np.ndarray, values: pa.Array, count: int) -> list[Group]:
    """A group for each distinct value; `rows` have these values, of `count` rows in all.

    Rows without a value are in no group.
    """
    kind_ = values.type
    plain = values.cast(kind_.value_type) if pa.types.is_dictionary(kind_) else values
    plain = plain.combine_chunks() if isinstance(plain, pa.ChunkedArray) else plain
    encoded = plain.cast(pa.string()).dictionary_encode()
    if len(encoded.dictionary) > MOST_VALUES:
        raise JobError(
            f"attention.group_by: {len(encoded.dictionary):,} different values in one unit, more "
            f"than {MOST_VALUES:,}; group by a column of fewer"
        )
    codes = encoded.indices.fill_null(-1).to_numpy()
    groups = []
    for code, value in enumerate(encoded.dictionary.to_pylist()):
        member = np.zeros(count, bool)
        member[rows[codes == code]] = True
        if member.any():
            groups.append(Group(kind, str(value), member))
    return groups


def sampled(
    sources: Sequence[str], source: np.ndarray, row: np.ndarray, share: float
) -> np.ndarray:
    """Which rows are in a sample, bool [rows], by a hash of each row's source and number.

    `source` [rows] are indices into `sources`. The hash mixes as SplitMix64 ends: Steele,
    Lea & Flood 2014, https://doi.org/10.1145/2660193.2660195, figure 16.
    """
    if share == 1:
        return np.ones(len(row), bool)
    seeds = [hashlib.blake2b(id_.encode(), digest_size=8).digest() for id_ in sources]
    x = np.array([int.from_bytes(seed, "little") for seed in seeds], np.uint64)[source]
    x = x + row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    chosen: np.ndarray = x < np.uint64(int(share * 2**64))
    return chosen


@dataclass
class Corpus:
    """Cells merged so far: arrays [cells, layers · heads], by each cell's place in `keys`."""

    layers: int
    heads: int
    tops: dict[str, float]  # the statistics, each with the end of its histogram
    keys: dict[Key, int] = field(default_factory=dict)
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        width = self.layers * self.heads
        for name in ("rows", "tokens"):
            self._arrays[name] = np.zeros(0)
        for name in (*SUMS, "min", "max"):
            self._arrays[name] = np.zeros((0, width))
        self.histograms = {name: np.zeros((width, BINS), np.int64) for name in self.tops}

    def add(self, cells: pa.Table) -> None:
        """Merges a unit's cells: Chan, Golub & LeVeque 1979, formulas 2.1."""
        if not cells.num_rows:
            return
        keys = list(
            zip(*(cells[n].to_pylist() for n in ("group", "value", "statistic")), strict=True)
        )
        at = np.array([self._place(key) for key in keys])
        mine = self._arrays
        for weight, mean, m2 in WEIGHTS:
            a, b = mine[weight][at], cells[weight].to_numpy().astype(np.float64)
            whole = a + b
            off = _matrix(cells, mean) - mine[mean][at]
            mine[mean][at] += off * (b / whole)[:, None]
            mine[m2][at] += _matrix(cells, m2) + off * off * (a * b / whole)[:, None]
            mine[weight][at] = whole
        mine["min"][at] = np.minimum(mine["min"][at], _matrix(cells, "min"))
        mine["max"][at] = np.maximum(mine["max"][at], _matrix(cells, "max"))
        for (_, _, statistic), bins in zip(keys, cells["histogram"], strict=True):
            if bins.is_valid:
                counts = bins.values.to_numpy().reshape(-1, BINS)
                self.histograms[statistic] += counts

    def cell(self, key: Key) -> dict[str, Any]:
        """A cell's sums: "rows" and "tokens" numbers, the others [layers · heads]."""
        return {name: array[self.keys[key]] for name, array in self._arrays.items()}

    def groups(self, kind: str) -> list[str]:
        """The values of the groups of one kind."""
        values = {value for group, value, _ in self.keys if group == kind}
        return sorted(values, key=lambda value: _natural(kind, value))

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
                if len(array) < len(self.keys):  # room for as many again, and some
                    more = np.full((len(array) + 16, *array.shape[1:]), empty, array.dtype)
                    self._arrays[name] = np.concatenate([array, more])
        return self.keys[key]


def read_corpus(output: Output) -> Corpus:
    """Merges the cells of every committed unit. Raises JobError if there are none."""
    attention = attention_contract(output)["attention"]
    corpus = Corpus(attention["layers"], attention["heads"], attention["statistics"])
    for cells in _stored(output, sorted(output.committed().values())):
        corpus.add(cells)
    if not corpus.keys:
        raise JobError(f"{output.path} has no committed statistics yet")
    return corpus


def attention_contract(output: Output) -> dict[str, Any]:
    """The contract of an output with statistics. Raises JobError if it is none."""
    contract = output.contract()
    if contract is None:
        raise JobError(f"{output.path} is no output of bertbatch: it has no _bertbatch/job.yaml")
    if contract.get("attention") is None:
        raise JobError(
            f"{output.path} was scored without attention statistics; score into a new folder "
            "with --attention, or with a section `attention` in the job file"
        )
    return contract


def _stored(output: Output, parts: Sequence[str]) -> Iterator[pa.Table]:
    """The cells of each part that has some; a part's footer names them."""

    def load(part: str) -> pa.Table | None:
        try:
            footer = output.footer(part) or {}
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise JobError(f"{output.at(part)} is no part of bertbatch's: {error}") from error
        path = footer.get("side_files", {}).get("attention")
        if path is None:
            return None
        try:
            return pa.ipc.open_file(output.store.read(output.at(path))).read_all()
        except (OSError, pa.ArrowException) as error:
            raise JobError(f"{output.at(path)}, which {part} names: {error}") from error

    with ThreadPoolExecutor(8) as pool:
        for first in range(0, len(parts), READING):
            yield from (t for t in pool.map(load, parts[first : first + READING]) if t is not None)


def _matrix(cells: pa.Table, name: str) -> np.ndarray:
    column = cells[name].combine_chunks()
    flat: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    matrix: np.ndarray = flat.reshape(len(column), -1)
    return matrix


def _natural(kind: str, value: str) -> tuple[int, str]:
    """Ranges of lengths by their number, everything else by its letters."""
    return (int(value.partition("-")[0]) if kind == LENGTH else 0, value)
