"""What the pages show of a terminal is what a terminal shows."""

import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from bertbatch.cli import app
from bertbatch.model.locate import PACKAGED
from tests.helpers.console import Block, blocks, blocks_of, differs
from tests.helpers.mentions import wrong
from tests.helpers.paths import ROOT
from tests.helpers.scaled_head import scaled_head

REVIEWS = 40  # of the demo's, in each half
SCORED = ["--carry", "label:gold", "--attention", "--set", "attention.per_row=false"]
SCORED += ["--set", "model.dtype=float32"]  # which `auto` may not find twice on a busy machine
RUN = [block for block in blocks() if block.mark.startswith("run")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pages' commands on data run: two halves of reviews, and outputs of them."""
    here = tmp_path_factory.mktemp("terminal")
    table = pc.read_csv(ROOT / "examples" / "reviews.csv").filter(pa.compute.field("lang") == "en")
    table = table.rename_columns({"gold": "label"}).filter(pa.compute.field("label") != "")
    pq.write_table(table[: 2 * REVIEWS : 2], here / "a.parquet")
    pq.write_table(table[1 : 2 * REVIEWS : 2], here / "b.parquet")
    packaged = PACKAGED / "sentiment_mini"
    scaled_head(packaged, here / "scaled", 3, 4)
    for data, output, model in (("b", "out-b", packaged), ("a", "out-scaled", here / "scaled")):
        words = [here / f"{data}.parquet", here / output, "--model", model, *SCORED]
        done = CliRunner().invoke(app, ["score", *map(str, words), "--runner", "inline"])
        assert done.exit_code == 0, done.output
    return here


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_what_a_page_shows_is_printed(block, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "1000")  # a temporary folder has a longer name
    for command, expected in block.commands:
        printed = output(command).replace(f"{folder}/", "")
        if expected:
            said = differs(expected, printed.splitlines(), numbers=block.mark == "run")
            assert not said, f"$ {command}\n{said}\n{printed}"


def output(command: str) -> str:
    """What a command prints; it may only fail with a message."""
    program, *words = shlex.split(command, comments=True)
    if program != "bertbatch":
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout
    # In this process, which has imported what it needs.
    done = CliRunner().invoke(app, [*words, "--runner", "inline"] if words[0] == "score" else words)
    assert done.exit_code == 0 or done.output.startswith("error: "), done.output
    return done.output


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.name)
def test_every_block_says_where_it_is_from(block):
    assert not unmarked(block)


def unmarked(block: Block) -> str:
    """Why nothing shows that a block is true, or nothing."""
    kind, _, what = block.mark.partition(": ")
    page = block.page.read_text() if block.page.exists() else ""
    if block in RUN:
        return "" if block.commands else "it has no command"
    if kind == "made by":
        if why := wrong(what, block.page):
            return why
        return "" if f"`{what}" in page else f"the page does not name {what}"
    if kind == "tested by":
        test = ROOT / what
        return "" if test.is_file() and block.page.name in test.read_text() else f"{what} does not"
    return "no comment says how it was made"


@pytest.mark.parametrize(
    "mark",
    [
        "",
        "<!-- made by hand -->\n",
        "<!-- made by: python -m recipes.nothing -->\n",
        "<!-- made by: python -m recipes.imports -->\n",
        "<!-- tested by: tests/operations/test_nothing.py -->\n",
        "<!-- tested by: tests/docs/test_demo.py -->\n",
    ],
)
def test_a_block_that_nothing_shows_is_found(mark):
    (block,) = blocks_of(ROOT / "docs" / "operations.md", f"{mark}```console\n$ ls\na\n```\n")
    assert unmarked(block)


@pytest.mark.parametrize(
    ("printed", "right"),
    [
        ("score 0.97\nits 1,200 rows\nend", True),
        ("score 0.98\nmore\nits 1,200 rows\nend", False),
        ("score 0.91\nits 1,200 rows\nend", False),
        ("score 0.97\nits 1,200 columns\nend", False),
        ("score 0.97\nits 1,200 rows\nother\nother\nend", True),
        ("score 0.97\nits 1,200 rows\nother", False),
        ("score 0.97\nits 1,200 rows\nend\nmore", False),
    ],
)
def test_other_lines_are_found(printed, right):
    expected = ["score 0.97", "its 1,200 rows", "...", "end"]
    assert (not differs(expected, printed.splitlines(), numbers=True)) == right
