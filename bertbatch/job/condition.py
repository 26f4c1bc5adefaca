"""The SQL that a condition may use: comparisons, AND, OR, NOT, IN, BETWEEN, LIKE, IS, CAST.

sqlglot parses it. What is not named here is refused, also where it is only a part of what is, so
that no condition is ever taken for another. What a condition comes to, `inputs/where.py` says.
"""

import operator
import re
from decimal import Decimal
from functools import cache
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp

Node = exp.Expr

COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
# The parts that an expression may have: sqlglot keeps what else it reads in further ones.
_PARTS: dict[type, set[str]] = {
    **{kind: {"this", "expression"} for kind in (*COMPARISONS, exp.And, exp.Or)},
    **{kind: {"this"} for kind in (exp.Not, exp.Paren, exp.Neg, exp.Boolean, exp.Null)},
    exp.Literal: {"this", "is_string"},
    exp.Column: {"this", "table", "db", "catalog"},
    exp.Identifier: {"this", "quoted"},
    exp.In: {"this", "expressions"},
    exp.Between: {"this", "low", "high"},
    exp.Like: {"this", "expression", "negate"},
    exp.Is: {"this", "expression"},
    exp.Cast: {"this", "to"},
    exp.DataType: {"this", "expressions", "nested"},
    exp.DataTypeParam: {"this"},
}
_D = exp.DataType.Type
_TYPES = {
    **dict.fromkeys((_D.TINYINT, _D.SMALLINT, _D.INT, _D.BIGINT), pa.int64()),
    **dict.fromkeys((_D.FLOAT, _D.DOUBLE), pa.float64()),
    **dict.fromkeys((_D.TEXT, _D.VARCHAR, _D.CHAR), pa.string()),
    _D.BOOLEAN: pa.bool_(),
    _D.DATE: pa.date32(),
    **dict.fromkeys((_D.TIMESTAMP, _D.TIMESTAMPNTZ, _D.DATETIME), pa.timestamp("us")),
}


@cache
def parsed(text: str) -> Node:
    """The tree of a condition, read once in a process.

    Raises ValueError if it is none, or uses what there is not.
    """
    try:
        tree = sqlglot.parse_one(text, dialect="duckdb")
    except sqlglot.errors.SqlglotError as error:
        raise ValueError(f"is not a condition: {_where_wrong(error)}") from None
    tree = tree.transform(_folded)
    for node in tree.walk():
        _check(node)
    if tree.find(exp.Column) is None:
        raise ValueError("names no column")
    return tree


def _where_wrong(error: sqlglot.errors.SqlglotError) -> str:
    """In place of what sqlglot says, which is about its own classes."""
    first, *_ = getattr(error, "errors", None) or [{}]
    if near := first.get("highlight"):
        return f"it cannot be read near {near!r}; text is in single quotes, a name in double ones"
    return "it cannot be read; is a quote or a bracket not closed?"


def columns_of(tree: Node) -> list[str]:
    """The columns that a condition names, each once."""
    return list(dict.fromkeys(map(name_of, tree.find_all(exp.Column))))


def _folded(node: Node) -> Node:
    """A column of more than four names, which sqlglot reads as a chain, as one."""
    if not isinstance(node, exp.Dot):
        return node
    names = [name_of(part) if isinstance(part, exp.Column) else part.name for part in node.parts]
    return exp.Column(this=exp.to_identifier(".".join(names), quoted=True))


def name_of(node: exp.Column) -> str:
    return ".".join(part.name for part in node.parts)


def sql_of(node: Node) -> str:
    return node.sql("duckdb")


def is_time(kind: pa.DataType) -> bool:
    return kind_of(kind) == "a time"


def kind_of(kind: pa.DataType) -> str:
    """What a value of a type is compared with: its like."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "a number"
    if pa.types.is_temporal(kind):
        return "a time"
    if pa.types.is_null(kind):
        return "null"
    text = (pa.string(), pa.large_string(), pa.string_view())
    return "text" if kind in text else str(kind)


def _check(node: Node) -> None:
    """Raises ValueError if an expression is none of those that there are, or says more."""
    allowed = _PARTS.get(type(node))
    given = {name for name, value in node.args.items() if value}
    if allowed is None or not given <= allowed | {"_type"}:
        raise ValueError(
            f"has {sql_of(node)}, which is not supported; there are comparisons, AND, OR, NOT, IN, "
            "BETWEEN, LIKE, IS NULL and CAST"
        )
    if isinstance(node, exp.Cast):
        type_of(node.args["to"])
    if isinstance(node, exp.Is) and not isinstance(node.expression, (exp.Null, exp.Boolean)):
        raise ValueError(
            f"has {sql_of(node)}, which is not supported; use IS NULL, IS TRUE or IS FALSE"
        )
    if isinstance(node, exp.Neg) and not is_literal(node):
        raise ValueError(f"has {sql_of(node)}, which is not supported; only numbers have a sign")
    if is_literal(node):
        value_of(node)


def is_literal(node: Node) -> bool:
    if isinstance(node, exp.Neg):
        return isinstance(node.this, exp.Literal) and not node.this.is_string
    return isinstance(node, (exp.Literal, exp.Boolean, exp.Null))


def value_of(node: Node) -> Any:
    """The value of a literal. Raises ValueError for an integer that Arrow has not."""
    if isinstance(node, exp.Neg):
        return operator.neg(value_of(node.this))
    if isinstance(node, exp.Null):
        return None
    if isinstance(node, exp.Boolean) or node.is_string:
        return node.this
    if not re.fullmatch(r"\d+", node.this):
        exact = re.fullmatch(r"[\d.]{2,20}", node.this)
        return Decimal(node.this) if exact else float(node.this)
    if int(node.this) >= 1 << 63:
        raise ValueError(f"has {node.this}, which is too large a number")
    return int(node.this)


def type_of(node: exp.DataType) -> pa.DataType:
    if node.this == _D.DECIMAL:
        digits = [int(each.this.this) for each in node.expressions] or [18, 3]
        try:
            return pa.decimal128(*digits)
        except (ValueError, TypeError) as error:
            raise ValueError(f"has {sql_of(node)}: {error}") from None
    kind = _TYPES.get(node.this)
    if kind is None or node.args.get("nested"):
        raise ValueError(
            f"has a CAST to {sql_of(node)}, which is not supported; there are INTEGER, DOUBLE, "
            "DECIMAL, VARCHAR, BOOLEAN, DATE and TIMESTAMP"
        )
    return kind
