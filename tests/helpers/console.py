"""The console blocks of the documents: what they say, and whether that is what is printed.

Before each block a comment says where its output is from:

    <!-- run -->                       a test runs it; the numbers must agree, too
    <!-- run on the demo's reviews --> a test runs it on other data; the numbers are others
    <!-- tested by: FILE -->           that test takes the commands from the page
    <!-- made by: COMMAND -->          this command, which the page names, makes it
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bertbatch.registry import STATISTICS
from tests.helpers.mentions import pages
from tests.helpers.paths import ROOT

NUMBER = r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?"


@dataclass(frozen=True)
class Block:
    """A block, the comment before it, and its commands with what they print."""

    page: Path
    mark: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text.splitlines()[0]}"

    @property
    def commands(self) -> list[tuple[str, list[str]]]:
        joined = re.sub(r"\\\n\s*", "", self.text)
        found = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", joined, re.M)
        return [(command, printed.splitlines()) for command, printed in found]


def blocks() -> list[Block]:
    """Every console block of every page."""
    return [block for page in pages() for block in blocks_of(page, page.read_text())]


def blocks_of(page: Path, text: str) -> Iterator[Block]:
    pattern = r"^(?:<!-- ([^\n]*) -->\n)?```console\n(.*?)^```$"
    for mark, inside in re.findall(pattern, text, re.M | re.S):
        yield Block(page, mark, inside)


def differs(expected: list[str], printed: list[str], numbers: bool) -> str:
    """The first line that was not printed, or nothing. `...` stands for any lines.

    With `numbers` these must agree within 0.02, and what weighs less than that may be anything.
    """
    rest, skip = iter(filter(None, map(str.strip, printed))), False
    for line in filter(None, map(str.strip, expected)):
        if line == "...":
            skip = True
            continue
        for other in rest:
            if _agree(line, other, numbers):
                break
            if not skip:
                return f"{line!r} is {other!r}"
        else:
            return f"{line!r} was not printed"
        skip = False
    left = "" if skip else next(rest, "")
    return f"{left!r} is printed, too" if left else ""


def _agree(expected: str, printed: str, numbers: bool) -> bool:
    pairs = [_parts(line, numbers) for line in (expected, printed)]
    (words, values), (other_words, others) = pairs
    if words != other_words:
        return False
    return not numbers or all(abs(a - b) <= 0.02 for a, b in zip(values, others, strict=True))


def _parts(line: str, numbers: bool) -> tuple[list[str], list[float]]:
    """A line's words with # for numbers and for hashes, and the numbers."""
    line = re.sub(r"'[0-9a-f]{8,}…?'", "#", line)
    if numbers:
        line = re.sub(r",? \S+ 0\.0[0-2]\b", "", line)
    elif line[0].isdigit():  # which statistic differs most depends on the data
        line = re.sub(rf"\b({'|'.join(STATISTICS)})\b", "statistic", line)
    values = [float(value.replace(",", "")) for value in re.findall(NUMBER, line)]
    return re.sub(NUMBER, "#", line).split(), values
