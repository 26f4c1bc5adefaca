"""The attention statistics of a unit: columns of its rows, their aggregates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from bertbatch.attention.aggregates import (
    ALL,
    COLUMN,
    LABEL,
    Group,
    aggregate,
    length_groups,
    value_groups,
)
from bertbatch.attention.row_columns import attention_columns, attention_fields, of_pieces, of_rows
from bertbatch.engines.scoring import Scored
from bertbatch.job.schema import Attention
from bertbatch.model.spec import ModelSpec
from bertbatch.runtime.passthrough import TextFacts
from bertbatch.statistics.statistic import make_statistics


@dataclass(frozen=True)
class Rows:
    """The rows of a unit: `answered` bool [rows]; of these `kept` bool [rows] are in its part.

    `labelled`: which of the kept rows have labels, and these; None if the task has none.
    `grouping`: the values of the column to group by, of the kept rows, if there is one.
    """

    answered: np.ndarray
    kept: np.ndarray
    labelled: tuple[np.ndarray, pa.Array] | None
    grouping: pa.ChunkedArray | None


def unit_statistics(
    attention: Attention, spec: ModelSpec, texts: TextFacts, rows: Rows, pieces: Sequence[Scored]
) -> tuple[dict[str, pa.Array], pa.Table]:
    """One model's columns of the kept rows by their names, and the aggregates of these rows."""
    heads = spec.layers * spec.heads
    shape = (len(attention.statistics), heads)
    statistics = of_pieces(pieces, rows.answered[texts.row], shape)
    statistics = replace(statistics, text=statistics.text[rows.kept[texts.row]])
    if texts.parts:
        statistics = of_rows(statistics, texts.parts.take(rows.kept))
    fields = attention_fields(attention, spec)
    made = attention_columns(fields, statistics)
    columns = {field.name: column for field, column in zip(fields, made, strict=True)}
    tops = [s.most(spec.max_length) for s in make_statistics(attention.statistics)]
    groups = _groups(texts.n_tokens[rows.kept], rows)
    return columns, aggregate(attention.statistics, tops, statistics, groups)


def _groups(n_tokens: np.ndarray, rows: Rows) -> list[Group]:
    """The groups that kept rows are in: all, by length, by label, by a carried column."""
    count = len(n_tokens)
    groups = [Group(ALL, "", np.ones(count, bool)), *length_groups(n_tokens)]
    if rows.labelled:
        groups += value_groups(LABEL, *rows.labelled, count)
    if rows.grouping is not None:
        groups += value_groups(COLUMN, np.arange(count), rows.grouping, count)
    return groups
