"""A condition selects the rows that DuckDB selects, or is refused; never others."""

import datetime
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bertbatch.inputs.where import Condition

DAY = datetime.date(2026, 1, 2)
TABLE = pa.table(
    {
        "n": pa.array([1, 2, None, -3, 0, 7], pa.int64()),
        "small": pa.array([1, None, 2, 3, 4, 5], pa.int8()),
        "f": pa.array([1.0, 2.5, None, -3.0, 0.1, 1e300]),
        "t": ["a", "b%", None, "", "A\nb", "x_\\y a\\b%"],
        "u": pa.array(["1", "x", None, " 2", "2.5", "3"]),
        "flag": [True, False, None, True, False, None],
        "d": [DAY, None, datetime.date(1999, 12, 31), DAY, DAY, DAY],
        "stamp": pa.array([0, 1, None, 10**15, 5, 6], pa.timestamp("us")),
        "price": pa.array([Decimal("1.50"), None, *map(Decimal, "1234")], pa.decimal128(9, 2)),
        "kind": pa.array(["a", "b", None, "a", "c", "c"]).dictionary_encode(),
        "a b": pa.array([1, 2, 3, None, 5, 6], pa.int32()),
        "of.x": pa.array([1, 2, 3, None, 5, 6], pa.int32()),
    }
)
NUMBERS = st.sampled_from(
    ["n", "small", "f", "price", '"a b"', "1", "-3", "2.5", "0", "CAST(n AS DOUBLE)"]
)
TEXTS = st.sampled_from(["t", "kind", "'a'", "'b%'", "''", "'it''s'", "CAST(n AS VARCHAR)"])
TIMES = st.sampled_from(["d", "DATE '2026-01-02'", "CAST('1999-12-31' AS DATE)"])
STAMPS = st.sampled_from(["stamp", "TIMESTAMP '1970-01-01 00:00:00.000005'"])
OPERATORS = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
PATTERNS = st.text(st.sampled_from(list("ab%_A\n\\xy")), max_size=4).map(lambda p: f"'{p}'")


def compared(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    lists = st.lists(
        values.filter(lambda v: v[0] in "'-0123456789DT") | st.just("NULL"), min_size=1
    )
    return st.one_of(
        st.tuples(values, OPERATORS, values).map(" ".join),
        st.tuples(values, st.sampled_from(["", "NOT "]), values, values).map(
            lambda v: f"{v[0]} {v[1]}BETWEEN {v[2]} AND {v[3]}"
        ),
        st.tuples(values, st.sampled_from(["IN", "NOT IN"]), lists).map(
            lambda v: f"{v[0]} {v[1]} ({', '.join(v[2])})"
        ),
        values.map("{} IS NULL".format),
        values.map("{} IS NOT NULL".format),
    )


ATOMS = st.one_of(
    *map(compared, (NUMBERS, TEXTS, TIMES, STAMPS)),
    st.tuples(TEXTS, st.sampled_from([" LIKE ", " NOT LIKE "]), PATTERNS).map("".join),
    st.sampled_from(["flag", "flag IS TRUE", "flag IS NOT TRUE", "flag IS FALSE", "flag = true"]),
    st.sampled_from(["true", "NULL", "n = NULL", "d > '2000-01-01'", "stamp <= '1970-01-01'"]),
)
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from([" AND ", " OR "]), inner).map("".join),
        inner.map("NOT ({})".format),
        inner.map("({})".format),
    ),
    max_leaves=5,
)


def duckdbs(condition: str, table: pa.Table = TABLE) -> list[bool]:
    connection = duckdb.connect()
    connection.register("rows", table)
    found = connection.execute(f"SELECT coalesce(({condition}), false) FROM rows").fetchall()
    return [row[0] for row in found]


@settings(max_examples=1500, deadline=None)
@given(CONDITIONS)
@example("t LIKE 'A_b' OR t LIKE 'x\\_\\y'")
@example("n NOT IN (1, NULL) OR n IN (2, NULL)")
@example("NOT (t NOT LIKE '%')")
@example("t LIKE '%a\\b%' OR t LIKE '%\\%'")
@example("n IN (1.0, 2.5) OR small IN (1, 300, -1000)")
@example("(n IN (1, 2)) IS NULL")
@example("NOT ((n IN (1)) IS FALSE)")
def test_rows_are_those_of_duckdb(text: str) -> None:
    try:
        condition = Condition(text)
    except ValueError as error:
        assert "names no column" in str(error)  # noqa: PT017
        assume(False)
    chosen, reasons = condition.select(TABLE)
    assert (chosen.tolist(), reasons) == (duckdbs(text), {})
    # What is told of a whole file is no narrower.
    try:
        told = condition.may_hold(TABLE.schema)
        may = (TABLE if told is None else TABLE.filter(told)).to_pylist()
    except pa.ArrowException:  # then every row may
        may = TABLE.to_pylist()
    rows = TABLE.to_pylist()
    assert all(row in may for row, keep in zip(rows, chosen, strict=True) if keep)


@pytest.mark.parametrize(
    ("text", "chosen", "failing"),
    [
        ("CAST(u AS INTEGER) > 0", [0, 5], [1, 3, 4]),
        ("CAST(u AS INTEGER) > 0 OR t = 'b%'", [0, 1, 5], [3, 4]),
        ("CAST(u AS INTEGER) > 0 AND t <> ''", [0, 5], [1, 4]),
        ("NOT CAST(u AS DOUBLE) > 2", [0], [1, 3]),
        ("CAST(u AS DOUBLE) IS NULL", [2], [1, 3]),
        ("CAST(f AS INTEGER) = 1", [0], [1, 4, 5]),
    ],
)
def test_a_row_whose_cast_fails_is_told_of(text, chosen, failing) -> None:
    """Unless the rest decides. A cast that would lose something fails."""
    found, reasons = Condition(text).select(TABLE)
    assert [i for i in np.flatnonzero(found) if i not in reasons] == chosen
    assert sorted(reasons) == failing
    assert all(reason.startswith("input.where: CAST(") for reason in reasons.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a condition"),
        ("n = ", "not a condition"),
        ("n = 1; DROP TABLE x", "not supported"),
        ("1 = 1", "names no column"),
        ("lower(t) = 'a'", "LOWER(t), which is not supported"),
        ("n IN (SELECT 1)", "not supported"),
        ("EXISTS (SELECT 1)", "not supported"),
        ("n + 1 > 2", "n + 1, which is not supported"),
        ("t ILIKE 'a'", "not supported"),
        ("t LIKE 'a' ESCAPE '!'", "not supported"),
        ("TRY_CAST(t AS INTEGER) = 1", "not supported"),
        ("CASE WHEN flag THEN flag END", "not supported"),
        ("n = $1", "not supported"),
        ("SELECT 1", "not supported"),
        ("n BETWEEN SYMMETRIC 3 AND 1", "not supported"),
        ("CAST(t AS BLOB) = 'a'", "CAST to BLOB, which is not supported"),
        ("CAST(t AS DECIMAL(99, 1)) = 1", "DECIMAL"),
        ("n = 99999999999999999999", "too large"),
        ("n IS DISTINCT FROM 1", "not supported"),
        ("t COLLATE nocase = 'a'", "not"),
        ("-n = 1", "not supported"),
        ("n = current_date", "not supported"),
        ("t = 'a' LIMIT 1", "not"),
        ("n = ALL (1)", "not"),
    ],
)
def test_other_sql_is_refused(text, said) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Condition(text)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("u > 3", "u > 3 compares a number with text; CAST one of them"),
        ("n = 'a'", "compares a number with text"),
        ("n", "n is a number, not a condition"),
        ("NOT t", "t is text, not a condition"),
        ("n AND flag", "n is a number, not a condition"),
        ("flag = 1", "compares"),
        ("n LIKE '1%'", "n is a number; CAST it to VARCHAR"),
        ("t LIKE u", "LIKE takes a string"),
        ("d = 'soon'", "'soon' is not a time"),
        ("n IN ('a')", "compares a number with text"),
        ("n IN (small)", "IN takes a list of values"),
        ("n BETWEEN 'a' AND 'b'", "compares a number with text"),
        ("CAST('x' AS INTEGER) = n", "'x'"),
        ("l = l2", "no kernel"),
        ("CAST(l AS VARCHAR) = 'a'", "cast"),
        ("CAST(flag AS DATE) = d", "cast"),
    ],
)
def test_types_that_do_not_go_together_are_told_before_any_row(text, said) -> None:
    lists = [pa.field(name, pa.list_(pa.int64())) for name in ("l", "l2")]
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Condition(text).check(pa.schema([*TABLE.schema, *lists]))
    assert said in str(caught.value)


def test_numbers_that_no_type_holds_are_compared_or_told_of() -> None:
    big = 2**60 + 1
    table = pa.table({"n": [big, 3, None], "f": [1.0, 2.5, 3.0]})
    assert Condition("n > 2.5").select(table)[0].tolist() == [True, True, False]
    assert Condition(f"n = {big}").select(table)[0].tolist() == [True, False, False]
    assert Condition("n IN (3, 2.5)").select(table)[0].tolist() == [False, True, False]
    chosen, reasons = Condition("n > f").select(table)
    assert (chosen.tolist(), list(reasons)) == ([False, True, False], [0])


def test_names_may_have_dots_and_spaces() -> None:
    condition = Condition('of.x > 2 AND "a b" < 6 AND "of.x" IS NOT NULL')
    assert condition.columns == ["of.x", "a b"]
    assert np.flatnonzero(condition.select(TABLE)[0]).tolist() == [2, 4]


def test_fields_may_be_deep() -> None:
    condition = Condition("a.b.c.d.e.f = 1 AND a.b.c.d.e IS NOT NULL")
    assert condition.columns == ["a.b.c.d.e.f", "a.b.c.d.e"]


def test_integers_and_times_of_other_types_are_compared() -> None:
    zone = pa.timestamp("us", "Europe/Paris")
    table = pa.table({"u": pa.array([1, 200], pa.uint8()), "z": pa.array([0, 3 * 10**15], zone)})
    assert Condition("u IN (-1, 1, 300)").select(table)[0].tolist() == [True, False]
    assert Condition("u > -1 AND u < 300").select(table)[0].tolist() == [True, True]
    assert Condition("z > '2026-01-01'").select(table)[0].tolist() == [False, True]
    assert Condition("z = '1970-01-01 00:00:00'").select(table)[0].tolist() == [True, False]


def test_thousands_of_values_and_alternatives() -> None:
    values = ", ".join(map(str, range(0, 20_000, 2)))
    assert Condition(f"n IN ({values})").select(TABLE)[0].tolist() == duckdbs(f"n IN ({values})")
    either = " OR ".join(f"n = {i}" for i in range(0, 300, 2))
    assert Condition(either).select(TABLE)[0].tolist() == duckdbs(either)
