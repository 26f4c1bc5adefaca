"""What Python's csv module makes of a text; with an escape character, what the rules say."""

import csv
import io

from bertbatch.inputs.formats.csv_records import Dialect

ORDINARY = "nothing-of-note"  # has no character of any dialect


def expected(text: str, dialect: Dialect) -> list[list[str]]:
    """The records' fields. An escape makes a quote or an escape after it text, within quotes."""
    if dialect.escape is not None:
        return _escaped(text, dialect)
    lines = io.StringIO(text, newline="")
    return [
        row
        for row in csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote)
        if row
    ]


def closed(text: str, dialect: Dialect) -> str:
    """The text, with a quote at its end if one is open there."""
    while expected(f"{text}\n{ORDINARY}", dialect)[-1:] != [[ORDINARY]]:
        text += dialect.quote  # the first may be escaped
    return text


def _escaped(text: str, dialect: Dialect) -> list[list[str]]:
    """One character after another: in the module, an escape means something everywhere."""
    records: list[list[str]] = []
    record, field = [], ""
    quoted = begun = False  # within quotes; whether the field has begun
    at = 0
    while at < len(text):
        here, after = text[at], text[at + 1 : at + 2]
        if quoted and here == dialect.escape and after in (dialect.quote, dialect.escape) and after:
            field, at = field + after, at + 1
        elif quoted and here == dialect.quote:
            if after == dialect.quote:
                field, at = field + here, at + 1
            else:
                quoted = False
        elif quoted:
            field += here
        elif here == dialect.quote and not begun:
            quoted = begun = True
        elif here == dialect.delimiter:
            record, field, begun = [*record, field], "", False
        elif here in "\r\n":
            if record or begun:
                records.append([*record, field])
            record, field, begun = [], "", False
        else:
            field, begun = field + here, True
        at += 1
    return [*records, [*record, field]] if record or begun else records
