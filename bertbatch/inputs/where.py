"""A condition on rows, as SQL writes it: `input.where`.

Arrow computes what `job/condition.py` has read. As in SQL, a comparison with null is neither true
nor false, and only rows for which the whole is true are scored.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from bertbatch.inputs.where_columns import Arrays, Carefully, Fields, value_type
from bertbatch.job.condition import (
    Node,
    columns_of,
    is_literal,
    is_time,
    kind_of,
    name_of,
    parsed,
    sql_of,
    type_of,
    value_of,
)

_COMPARE: dict[type, Callable[..., Any]] = {
    exp.EQ: pc.equal,
    exp.NEQ: pc.not_equal,
    exp.GT: pc.greater,
    exp.GTE: pc.greater_equal,
    exp.LT: pc.less,
    exp.LTE: pc.less_equal,
}
_BOTH: dict[type, Callable[..., Any]] = {exp.And: pc.and_kleene, exp.Or: pc.or_kleene}


class Condition:
    """A condition that was read. Raises ValueError if it is none, or uses what there is not."""

    def __init__(self, text: str):
        self._tree = parsed(text)
        self.columns = columns_of(self._tree)

    def check(self, schema: pa.Schema) -> None:
        """Raises ValueError if the columns' types do not go with it."""
        nulls = [pa.nulls(1, value_type(field.type)) for field in schema]
        try:
            _, reasons = self.select(pa.table(nulls, names=schema.names))
        except pa.ArrowException as error:  # two types that cannot be compared, or cast
            raise ValueError(str(error).splitlines()[0]) from error
        if reasons:  # a value of its own
            raise ValueError(reasons[0].removeprefix("input.where: "))

    def select(self, table: pa.Table) -> tuple[np.ndarray, dict[int, str]]:
        """Which rows are to be scored; why a row cannot tell, by position.

        A row whose CAST fails can still tell if the rest of the condition decides.
        """
        values = {name: _plain(table.column(name)) for name in self.columns}
        try:
            true = _truth(self._tree, Arrays(values))
        except pa.ArrowInvalid:
            return self._carefully(values, table.num_rows)
        return _numpy(true, table.num_rows), {}

    def may_hold(self, schema: pa.Schema) -> pc.Expression | None:
        """The condition for Arrow, by which it tells where no row can be true.

        None if it could tell wrong: least and largest values leave out what is not a number, and
        Arrow has IN true or false where SQL has it null.
        """
        kinds = [value_type(schema.field(name).type) for name in self.columns]
        if any(map(pa.types.is_floating, kinds)):
            return None
        if any(node.find(exp.In) for node in self._tree.find_all(exp.Is)):
            return None
        return _truth(self._tree, Fields(schema))

    def _carefully(
        self, values: dict[str, pa.ChunkedArray], rows: int
    ) -> tuple[np.ndarray, dict[int, str]]:
        found = Carefully(values)
        try:
            true = _truth(self._tree, found)
        except pa.ArrowInvalid as error:  # two numbers that no type holds
            if rows <= 1:
                return np.zeros(rows, bool), dict.fromkeys(range(rows), f"input.where: {error}")
            return self._one_by_one(values, rows)
        unknown = np.broadcast_to(pc.is_null(true).to_numpy(zero_copy_only=False), rows)
        reasons = {i: why for i, why in found.failed.items() if unknown[i]}
        return _numpy(true, rows), reasons

    def _one_by_one(
        self, values: dict[str, pa.ChunkedArray], rows: int
    ) -> tuple[np.ndarray, dict[int, str]]:
        chosen, reasons = np.zeros(rows, bool), {}
        for i in range(rows):
            own = {name: column.slice(i, 1) for name, column in values.items()}
            true, why = self._carefully(own, 1)
            chosen[i] = true[0]
            if why:
                reasons[i] = why[0]
        return chosen, reasons


@cache
def condition(text: str) -> Condition:
    """The condition of a job, read once in a process. Raises ValueError."""
    return Condition(text)


_How = Arrays | Fields


def _truth(node: Node, how: _How) -> Any:
    """What a condition comes to. Raises ValueError if it is no condition."""
    if isinstance(node, exp.Paren):
        return _truth(node.this, how)
    if (both := _BOTH.get(type(node))) is not None:
        sides = (_truth(side, how) for side in _sides(node))
        return reduce(both, sides)
    if isinstance(node, exp.Not):
        return pc.invert(_truth(node.this, how))
    if (compare := _COMPARE.get(type(node))) is not None:
        return compare(*_pair(node, node.this, node.expression, how))
    if isinstance(node, exp.Between):
        low = pc.greater_equal(*_pair(node, node.this, node.args["low"], how))
        return pc.and_kleene(low, pc.less_equal(*_pair(node, node.this, node.args["high"], how)))
    if isinstance(node, exp.In):
        return _in(node, how)
    if isinstance(node, exp.Like):
        found = pc.match_substring_regex(_text(node, node.this, how), pattern=_pattern(node))
        return pc.invert(found) if node.args.get("negate") else found
    if isinstance(node, exp.Is):
        if isinstance(node.expression, exp.Null):
            return how.known(node, pc.is_null(_evaluated(node.this, how)))
        true = _truth(node.this, how)
        true = true if node.expression.this else pc.invert(true)
        return how.known(node, pc.coalesce(true, how.literal(False)))
    value = _evaluated(node, how)
    kind = how.type_of(node, value)
    if not (pa.types.is_boolean(kind) or pa.types.is_null(kind)):
        raise ValueError(f"{sql_of(node)} is {kind_of(kind)}, not a condition")
    return value.cast(pa.bool_()) if pa.types.is_null(kind) else value


def _sides(node: Node) -> Iterator[Node]:
    """The operands of a chain of one operator, which may be a very long one."""
    stack = [node]
    while stack:
        each = stack.pop()
        if type(each) is type(node):
            stack += [each.expression, each.this]
        else:
            yield each


def _evaluated(node: Node, how: _How) -> Any:
    if isinstance(node, exp.Paren):
        return _evaluated(node.this, how)
    if isinstance(node, exp.Column):
        return how.column(name_of(node))
    if isinstance(node, exp.Cast):
        return how.cast(node, _evaluated(node.this, how), type_of(node.args["to"]))
    return how.literal(value_of(node)) if is_literal(node) else _truth(node, how)


def _pair(of: Node, left: Node, right: Node, how: _How) -> list[Any]:
    """Two values to compare. Raises ValueError if they are of two kinds."""
    nodes = (left, right)
    values = [_evaluated(node, how) for node in nodes]
    kinds = [how.type_of(node, value) for node, value in zip(nodes, values, strict=True)]
    for i, other in ((0, 1), (1, 0)):  # a day or a time may be written as a string
        if is_literal(nodes[i]) and is_time(kinds[other]) and kind_of(kinds[i]) == "text":
            values[i] = how.literal(_as_time(of, value_of(nodes[i]), kinds[other]))
            return values
    names = {kind_of(kind) for kind in kinds} - {"null"}
    if len(names) > 1:
        advice = "; CAST one of them" if names <= {"text", "a number", "a time"} else ""
        raise ValueError(f"{sql_of(of)} compares {' with '.join(sorted(names))}{advice}")
    return values


def _in(node: exp.In, how: _How) -> Any:
    value = _evaluated(node.this, how)
    kind = how.type_of(node.this, value)
    wanted, equal = [], []
    for each in node.expressions:
        equal.append(_pair(node, node.this, each, how))
        if isinstance(each, exp.Cast) and is_time(type_of(each.args["to"])):  # DATE '2026-01-01'
            each = each.this
        if not is_literal(each):
            raise ValueError(f"{sql_of(node)}: IN takes a list of values")
        wanted.append(value_of(each))
    known = [each for each in wanted if each is not None]
    if is_time(kind):
        known = [_as_time(node, each, kind) for each in known]
    elif not pa.types.is_integer(kind) and kind_of(kind) == "a number":  # of several types
        return reduce(pc.or_kleene, (pc.equal(*pair) for pair in equal))
    elif pa.types.is_integer(kind):
        known = [int(each) for each in known if each == int(each) and _fits(int(each), kind)]
    if pa.types.is_null(kind):  # nothing is in a list
        return value.cast(pa.bool_())
    found = pc.is_in(value, value_set=pa.array(known, kind))
    if isinstance(how, Fields):  # Arrow tells less of the exact form, and null is not true
        return found
    null = pa.scalar(None, pa.bool_())
    found = pc.if_else(pc.is_null(value), null, found)
    return pc.if_else(found, True, null) if None in wanted else found


def _text(of: Node, node: Node, how: _How) -> Any:
    value = _evaluated(node, how)
    kind = how.type_of(node, value)
    if kind_of(kind) not in ("text", "null"):
        raise ValueError(f"{sql_of(of)}: {sql_of(node)} is {kind_of(kind)}; CAST it to VARCHAR")
    return value.cast(pa.string()) if pa.types.is_null(kind) else value


def _pattern(node: exp.Like) -> str:
    """The pattern as a regular expression: Arrow's LIKE takes a backslash for an escape."""
    pattern = node.expression
    if not (isinstance(pattern, exp.Literal) and pattern.is_string):
        raise ValueError(f"{sql_of(node)}: LIKE takes a string")
    any_ = {"%": ".*", "_": "."}
    return r"(?s)\A" + "".join(any_.get(c) or re.escape(c) for c in str(pattern.this)) + r"\z"


def _fits(value: int, kind: pa.DataType) -> bool:
    bounds = np.iinfo(kind.to_pandas_dtype())
    return int(bounds.min) <= value <= int(bounds.max)


def _as_time(of: Node, value: Any, kind: pa.DataType) -> pa.Scalar:
    try:
        if pa.types.is_timestamp(kind) and kind.tz is not None:  # without a zone it is UTC
            with suppress(pa.ArrowInvalid):
                utc = pa.scalar(value).cast(pa.timestamp(kind.unit)).cast(pa.int64())
                return utc.cast(kind)
        return pa.scalar(value).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise ValueError(f"{sql_of(of)}: {value!r} is not {kind_of(kind)}") from None


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Without dictionaries and views, which some of Arrow's functions do not take."""
    kind = value_type(column.type)
    kind = pa.string() if kind == pa.string_view() else kind
    return column if kind == column.type else column.cast(kind)


def _numpy(true: Any, rows: int) -> np.ndarray:
    """Which are true; null is not. One value stands for all rows."""
    found = pc.fill_null(true, False)
    if isinstance(found, pa.Scalar):
        return np.full(rows, found.as_py())
    chosen: np.ndarray = found.to_numpy().astype(bool)
    return chosen
