"""Aggregates of a unit's attention statistics, as they are stored with the unit.

An aggregate covers one statistic over one group of rows, for all heads at once: counts, means,
sums of squared differences from the mean (M2), minimum, maximum, and over all rows a histogram.
There are two means: over rows, and over tokens, where a row weighs as much as it has query tokens.
Groups are margins, not products: all rows, each label, each range of lengths, each value of a
carried column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.engines.scoring import Statistics
from bertbatch.errors import JobError

BINS = 32
ALL, LABEL, LENGTH, COLUMN = "all", "label", "length", "column"  # kinds of group
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # the end of each range, in tokens
MOST_VALUES = 1000  # of a column in a unit; each value is a group

# The columns of an aggregate, [layers · heads] each: for each weight a mean and an M2.
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
    """A unit's aggregates, as they are stored.

    `names` and `tops` are the statistics' names and largest values. Rows that are not sampled
    are left out. A text that stands for several rows counts once for each.
    """
    sampled = statistics.text >= 0
    texts = len(statistics.values)
    weights = np.array(
        [np.bincount(statistics.text[g.member & sampled], minlength=texts) for g in groups]
    )
    # Texts without rows may have NaN: their rows are in quarantine.
    used = weights.any(0)
    all_values, all_counts = statistics.values[used], statistics.counts[used]
    weights = weights[:, used]
    rows: list[dict[str, Any]] = []
    for k, name in enumerate(names):
        counts = all_counts[:, k].astype(np.float64)
        defined = counts > 0
        x = all_values[:, k].astype(np.float64)
        shift = x[defined].mean(0) if defined.any() else np.zeros(x.shape[1])
        y = x - shift  # near zero, so that squares lose no digits
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
                    "group": group.kind,
                    "value": group.value,
                    "statistic": name,
                    **{key: int(sums[key][i]) for key in ("rows", "tokens")},
                    **{key: sums[key][i] for key in SUMS},
                    "min": inside.min(0),
                    "max": inside.max(0),
                    "histogram": _histogram(all_values[:, k], weights[i] * defined, tops[k])
                    if group.kind == ALL
                    else None,
                }
            )
    return pa.Table.from_pylist(rows, aggregates_schema(statistics.values.shape[2]))


def of_models(tables: Mapping[str, pa.Table]) -> pa.Table:
    """The aggregates of several models as one table, whose column `model` says whose they are.

    Those of the only model stay as they are.
    """
    if list(tables) == [""]:
        return tables[""]
    return pa.concat_tables(_named(model, table) for model, table in tables.items())


def of_model(table: pa.Table, model: str) -> pa.Table:
    """One model's aggregates of a unit."""
    return table.filter(pc.equal(table["model"], model)) if model else table


def _named(model: str, table: pa.Table) -> pa.Table:
    """With a column for the model, and lists of any length: another model has other heads."""
    for i, field in enumerate(table.schema):
        if pa.types.is_fixed_size_list(field.type):
            lists = pa.list_(field.type.value_type)
            table = table.set_column(i, field.name, table[i].cast(lists))
    return table.append_column("model", pa.array([model] * table.num_rows, pa.string()))


def aggregates_schema(heads: int) -> pa.Schema:
    """The schema of a unit's aggregates, for `heads` heads in total."""
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
    """A group for each range of text lengths that occurs."""
    place = np.searchsorted(LENGTHS, n_tokens)
    lows = (1, *(last + 1 for last in LENGTHS))
    names = [f"{low}-{last}" for low, last in zip(lows, LENGTHS, strict=False)]
    names.append(f"{lows[-1]}-")
    return [Group(LENGTH, names[i], place == i) for i in np.unique(place)]


def value_groups(kind: str, rows: np.ndarray, values: pa.Array, count: int) -> list[Group]:
    """A group for each distinct value; `rows` are the rows that have these values, of `count`.

    Rows without a value are in no group. Raises JobError if there are too many values.
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
