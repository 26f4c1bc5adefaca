"""What docs/tutorial-attention.md shows is what its commands print, and its pictures are drawn."""

import contextlib
import io
import re
import shlex

import numpy as np
import pytest

from recipes import palette, pictures
from tests.helpers.command_line import invoke
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "tutorial-attention.md"
LARGEST = 150_000  # bytes of a picture
CHAPTERS = dict(re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S))
BLOCK = re.compile(r"^```(console|python|text)\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("chapter", [name for name, words in CHAPTERS.items() if "```" in words])
def test_blocks_show_what_is_printed(chapter, tmp_path, monkeypatch):
    for name in ("examples", "bertbatch"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    said = ""
    for kind, block in BLOCK.findall(CHAPTERS[chapter]):
        if kind == "console":
            for command, shown in re.findall(r"^\$ ([^\n]*)\n(.*?)(?=^\$|\Z)", block, re.M | re.S):
                agree(run(command), shown)
        elif kind == "python":
            said = printed(block)
        else:
            agree(said, block)


def run(command: str) -> str:
    _, *words = shlex.split(command)
    if words[0] == "score":
        words += ["--runner", "inline"]
    code, said = invoke(*words)
    assert code == 0, said
    return said


def printed(block: str) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(block, {})
    return said.getvalue()


def agree(said: str, shown: str) -> None:
    """The same words, and numbers that are as near as processors let them be."""
    if shown.strip() == "...":
        return
    said = re.sub(r".*\r|.*Loading weights.*\n", "", said)
    for got, wanted in zip(said.split(), shown.split(), strict=True):
        numbers = [re.fullmatch(r"[\[]?(-?\d[\d,]*\.?\d*)[,\]]?", word) for word in (got, wanted)]
        if all(numbers):
            value, other = (float(found[1].replace(",", "")) for found in numbers)
            assert value == pytest.approx(other, rel=0.01, abs=0.011), (got, wanted)
        else:
            assert got == wanted


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_are_as_drawn(name):
    there = (ROOT / "docs" / "images" / name).read_text()
    words = re.compile(r">([^<>]*[^\d\s.<>-][^<>]*)</text>")
    assert words.findall(pictures.PICTURES[name]()) == words.findall(there) != []


def test_pictures_are_small_and_all_are_used():
    files = [*(ROOT / "docs" / "images").iterdir()]
    text = PAGE.read_text() + (ROOT / "README.md").read_text()
    used = re.findall(r"\]\((?:docs/)?images/([^)]*)\)", text)
    drawn = {*pictures.PICTURES, "peek.png", "report.png"}
    assert {file.name for file in files} == set(used) == drawn
    assert max(file.stat().st_size for file in files) < LARGEST


def test_a_palette_keeps_the_picture():
    there = (ROOT / "docs" / "images" / "peek.png").read_bytes()
    assert there[25] == 3  # with a palette
    # A gradient in each colour, with every filter.
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 6, (5, 40, 3)).cumsum(1).astype(np.uint8)
    made = encoded(pixels)
    assert (palette.decode(made) == pixels).all()
    assert palette.with_palette(made)[25] == 3


def encoded(pixels: np.ndarray) -> bytes:
    """A PNG whose rows have the five filters in turn, by their definitions."""
    import struct
    import zlib

    height, width, _ = pixels.shape
    padded = np.zeros((height + 1, width + 1, 3), int)
    padded[1:, 1:] = pixels
    lines = b""
    for y in range(height):
        up, left, corner = padded[y, 1:], padded[y + 1, :-1], padded[y, :-1]
        nearest = [abs(left + up - corner - one) for one in (left, up, corner)]
        paeth = np.choose(np.argmin(nearest, axis=0), [left, up, corner])
        guess = [0, left, up, (left + up) // 2, paeth][y % 5]
        lines += bytes([y % 5]) + ((padded[y + 1, 1:] - guess) % 256).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    return palette.SIGNATURE + b"".join(palette._chunk(*chunk) for chunk in chunks)
