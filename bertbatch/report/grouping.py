"""What is counted by the values of a carried column while an output is read."""

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

MOST_VALUES = 30  # of a column whose values are groups
MOST_DAYS = 4000
NONE = "(none)"  # rows without a value
_DAY = r"^\d{4}-\d{2}-\d{2}([T ].*)?$"
_SIMPLE = ("string", "large_string", "bool")


@dataclass
class Groups:
    """`rows` by value; `labels` by value and label; `sums` of the answer, if it is a number."""

    column: str
    by_day: bool
    whole: bool = False  # the values are whole numbers
    rows: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    sums: dict[str, float] = field(default_factory=dict)
    too_many: bool = False

    @property
    def values(self) -> list[str]:
        """In order, rows without a value last."""
        return sorted(
            self.rows, key=lambda v: (v == NONE, int(v) if self.whole and v != NONE else 0, v)
        )

    def add(
        self,
        values: pa.Array,
        labelled: tuple[pa.Array, pa.Array] | None,
        numbers: pa.Array | None,
    ) -> None:
        """Values [rows]; `labelled` are rows' places among them and their labels."""
        if self.too_many:
            return
        texts = self._texts(values)
        for value, rows in _counts(texts):
            self.rows[value] += rows
        if len(self.rows) > (MOST_DAYS if self.by_day else MOST_VALUES):
            self.too_many = True
            return
        if labelled is not None:
            rows, labels = labelled
            pairs = pa.table({"value": texts.take(rows), "label": labels})
            for item in (
                pairs.group_by(["value", "label"]).aggregate([([], "count_all")]).to_pylist()
            ):
                self.labels[(item["value"], item["label"])] += item["count_all"]
        if numbers is not None:
            table = pa.table({"value": texts, "number": numbers})
            for item in table.group_by("value").aggregate([("number", "sum")]).to_pylist():
                before = self.sums.get(item["value"], 0.0)
                self.sums[item["value"]] = before + (item["number_sum"] or 0.0)

    def _texts(self, values: pa.Array) -> pa.Array:
        if self.by_day:
            values = pc.utf8_slice_codeunits(_text(values), 0, 10)
        return pc.fill_null(_text(values), NONE)


def groups_of(schema: pa.Schema, carried: list[str], table: pa.Table) -> list[Groups]:
    """The carried columns that may have few values or days, from an output's first rows."""
    found = []
    for name in carried:
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            found.append(Groups(name, True))
        elif str(kind) in _SIMPLE or pa.types.is_integer(kind):
            whole = pa.types.is_integer(kind)
            found.append(Groups(name, _are_days(table[name]), whole))
    return found


def _are_days(column: pa.ChunkedArray) -> bool:
    texts = _text(column.combine_chunks()).drop_null()
    return bool(len(texts)) and bool(pc.all(pc.match_substring_regex(texts, _DAY)).as_py())


def _text(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.cast(pa.string())


def _counts(texts: pa.Array) -> list[tuple[str, int]]:
    return [(item["values"], item["counts"]) for item in pc.value_counts(texts).to_pylist()]
