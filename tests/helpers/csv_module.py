"""What Python's csv module makes of a text."""

import csv
import io

from bertbatch.job.input import Csv

ORDINARY = "nothing-of-note"  # has no character of any dialect


def expected(text: str, dialect: Csv) -> list[list[str]]:
    lines = io.StringIO(text, newline="")
    return [
        row
        for row in csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote)
        if row
    ]


def closed(text: str, dialect: Csv) -> str:
    """The text, with a quote at its end if one is open there."""
    line = [ORDINARY]
    return text if expected(f"{text}\n{ORDINARY}", dialect)[-1:] == [line] else text + dialect.quote
