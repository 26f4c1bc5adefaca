"""The scan agrees with Python's csv module on any bytes, wherever blocks end."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bertbatch.inputs.formats import csv_records
from bertbatch.inputs.formats.csv_records import Dialect
from tests.helpers.csv_module import closed, expected

HOSTILE = st.text(st.sampled_from(list('""""",,,\\\\\r\r\n\n\na b日€\0\ufeff')), max_size=60)
BLOCKS = st.integers(1, 9)
ESCAPES = Dialect(escape="\\")
DIALECTS = st.sampled_from(
    [Dialect(), Dialect(delimiter="\t", quote="'"), Dialect(delimiter=" "), ESCAPES]
)


def found(data: bytes, dialect: Dialect) -> list[list[str]]:
    """All fields of whole records."""
    f = csv_records.fields(data, dialect)
    text = f.text.tobytes()
    start, stop = f.offsets(f.start), f.offsets(f.stop)
    return [
        [text[start[i] : stop[i]].decode() for i in range(first, first + count)]
        for first, count in zip(f.first, f.count, strict=True)
    ]


def scan(data: bytes, block: int, dialect: Dialect) -> list[tuple[int, int]]:
    blocks = (data[i : i + block] for i in range(0, len(data), block))
    pairs = list(csv_records.records(blocks, dialect, threads=2))
    assert all(len(starts) for starts, *_ in pairs)
    for starts, stops, lines in pairs:
        for a, b, n in zip(starts, stops, lines, strict=True):
            assert n == data[a:b].count(b"\n") + data[a:b].count(b"\r")
    return [(int(a), int(b)) for pair in pairs for a, b in zip(*pair[:2], strict=True)]


@settings(max_examples=600, deadline=None)
@given(HOSTILE, BLOCKS, DIALECTS)
@example('a,""\r\n"x""\n""","y"z"\n\r\n5" pipe,b\r"open\n', 1, Dialect())
def test_records_are_those_of_the_csv_module(text: str, block: int, dialect: Dialect) -> None:
    text = closed(text.lstrip("\ufeff"), dialect)
    data = text.encode()
    bounds = scan(data, block, dialect)
    rows = [row for a, b in bounds for row in expected(data[a:b].decode(), dialect)]
    assert rows == expected(text, dialect)
    assert len(bounds) == len(rows)
    outside = np.ones(len(data) + 1, bool)
    for a, b in bounds:
        assert outside[a:b].all()
        assert a < b
        outside[a:b] = False
    assert all(c in b"\r\n" for i, c in enumerate(data) if outside[i])


@settings(max_examples=600, deadline=None)
@given(HOSTILE, DIALECTS)
@example('"a"b"c","",,"""x"""\n\n""\n"",\r\n"o\r\npen', Dialect())
def test_fields_are_those_of_the_csv_module(text: str, dialect: Dialect) -> None:
    text = text.lstrip("\ufeff")
    assert found(text.encode(), dialect) == expected(text, dialect)


@settings(max_examples=200, deadline=None)
@given(HOSTILE, st.integers(1, 7))
def test_pieces_and_blocks_do_not_matter(text: str, piece: int) -> None:
    data = closed(text * 3, Dialect()).encode()
    whole = scan(data, len(data) + 1, Dialect())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "PIECE", piece)
        assert scan(data, 11, Dialect()) == whole


def test_long_runs_of_quotes_may_cross_blocks() -> None:
    for n in range(1, 12):
        data = b"a," + b'"' * n + b'\nb,"\n' + b'"' * n + b"\nc\n"
        data = closed(data.decode(), Dialect()).encode()
        records = [data[a:b] for a, b in scan(data, 100, Dialect())]
        assert len(records) == len(expected(data.decode(), Dialect()))
        for block in range(1, 12):
            assert [data[a:b] for a, b in scan(data, block, Dialect())] == records


def test_byte_order_mark_is_skipped_only_at_the_start() -> None:
    data = csv_records.BOM + b'"a\nb"\n' + csv_records.BOM + b"c\n"
    assert [data[a:b] for a, b in scan(data, 100, Dialect())] == [
        b'"a\nb"\n',
        csv_records.BOM + b"c\n",
    ]
    assert [data[a:b] for a, b in scan(data, 1, Dialect())] == [
        b'"a\nb"\n',
        csv_records.BOM + b"c\n",
    ]
    assert scan(csv_records.BOM, 100, Dialect()) == []


def test_only_a_few_blocks_are_held(tmp_path: Path) -> None:
    given_out = 0

    def blocks() -> object:
        nonlocal given_out
        for _ in range(500):
            given_out += 1
            yield b"a,b\n" * 100

    rows = csv_records.records(blocks(), Dialect(), threads=2)  # type: ignore[arg-type]
    next(rows)
    assert given_out < 10
    assert sum(len(starts) for starts, *_ in rows) == 500 * 100 - 100


@settings(max_examples=600, deadline=None)
@given(HOSTILE, BLOCKS, st.integers(1, 7), DIALECTS)
@example('a,"b"\n"c\n""\n""""', 1, 1, Dialect())
def test_a_quote_left_open_is_an_error_that_says_where(
    text: str, block: int, piece: int, dialect: Dialect
) -> None:
    text = text.lstrip("\ufeff")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "PIECE", piece)
        if closed(text, dialect) == text:
            scan(text.encode(), block, dialect)
            return
        with pytest.raises(csv_records.OpenQuote) as caught:
            scan(text.encode(), block, dialect)
    # What comes before it is whole records and fields, and no text without it is left open.
    before = text.encode()[: caught.value.at].decode()
    assert text.encode()[caught.value.at :].decode().startswith(dialect.quote)
    assert closed(before, dialect) == before
