"""What commands print: at any width, every figure whole, no spaces at the ends of lines."""

import re
import sys

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
import typer.rich_utils
from rich.console import Console

from bertbatch.display.facts import Facts
from bertbatch.display.grid import Grid
from bertbatch.display.lines import show
from tests.helpers.command_line import invoke
from tests.helpers.paths import ROOT
from tests.helpers.tiny import make_model

WIDTHS = (40, 60, 80, 120)
CONTROLS = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")
SCORED = (
    *("--runner", "inline", "--model", "model", "--carry", "id,gold"),
    *("--set", "model.dtype=float32", "--set", "model.tokens_per_batch=512"),
)
COMMANDS = {
    "help": ["--help"],
    "help of score": ["score", "--help"],
    "plan": ["plan", "a", "out-short", *SCORED, "--max-length", "6"],
    "score": ["score", "a", "again-{}", *SCORED],
    "status": ["status", "out-a"],
    "verify": ["verify", "out-a"],
    "evaluate": ["evaluate", "out-a", "--gold", "gold"],
    "evaluate several labels": ["evaluate", "out-m", "--gold", "gold"],
    "compare": ["compare", "out-a", "out-short", "--gold", "gold"],
    "compare several labels": ["compare", "out-m", "out-n"],
    "attention": ["attention", "out-a", "--to", "{}.csv"],
    "attention against": ["attention", "out-a", "--against", "out-b"],
    "export": ["export", "out-a", "{}.jsonl"],
    "peek": [
        "peek",
        "A bland, overcooked plate of spaghetti.",
        "--model",
        "model",
        "--html",
        "{}.html",
    ],
    "peek long": ["peek", "Bland. " * 600, "--model", "model", "--heads", "1"],
    "report": ["report", "out-a", "--to", "{}.html"],
    "init": ["init", "a", "--to", "{}.yaml"],
}
PRINTS_NUMBERS = ("evaluate", "compare", "attention against", "status", "plan", "attention")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with reviews and outputs of them, in which the commands run."""
    folder = tmp_path_factory.mktemp("lines")
    make_model(folder / "model", num_hidden_layers=8)
    rows = pc.read_csv(ROOT / "examples" / "reviews.csv").filter(pa.compute.field("lang") == "en")
    rows = rows.filter(pa.compute.field("gold") != "")
    for name, start in (("a", 0), ("b", 40)):
        (folder / name).mkdir()
        for i in range(2):
            part = rows[start + 20 * i : start + 20 * i + 20]
            pq.write_table(part, folder / name / f"reviews-of-a-long-name-{i}.parquet")
    several = ["--set", "model.task=multi_label", "--set", "model.threshold=0.3"]
    attention = ["--attention", "--set", "attention.per_row=false"]
    for data, output, options in (
        ("a", "out-a", attention),
        ("b", "out-b", attention),
        ("a", "out-short", ["--max-length", "6"]),
        ("a", "out-m", several),
        ("a", "out-n", [*several, "--max-length", "6"]),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            assert invoke("score", data, output, *SCORED, *options)[0] == 0
    return folder


@pytest.fixture
def printed(here, monkeypatch):
    def go(name, width, terminal):
        """The lines of a command, at a terminal or in a file, without colors."""
        monkeypatch.chdir(here)
        monkeypatch.setenv("COLUMNS", str(width))
        if terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
        # typer reads the variable once, when it is imported.
        monkeypatch.setattr(typer.rich_utils, "FORCE_TERMINAL", terminal or None)
        made = f"{name.replace(' ', '-')}-{width}-{terminal:d}"
        code, said = invoke(*(word.format(made) for word in COMMANDS[name]))
        assert code == 0, said
        if terminal and (name == "evaluate" or (name.startswith("help") and width >= 80)):
            assert CONTROLS.search(said)
        # A log's plain lines are as long as they are; the bar is drawn anew again and again.
        log, bar = re.compile(r"\d{4}-\d\d-\d\dT\S+ (INFO|WARNING) "), re.compile("[━╸╺]")
        lines = re.split(r"\r\n|[\r\n]", CONTROLS.sub("", said).removesuffix("\n"))
        return [line for line in lines if not log.match(line) and not bar.search(line)]

    return go


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "file"])
@pytest.mark.parametrize("name", COMMANDS)
def test_lines_fit_without_spaces_at_their_ends(name, terminal, printed):
    figures = {}
    for width in WIDTHS:
        lines = printed(name, width, terminal)
        assert lines
        for line in lines:
            assert line == line.rstrip(), (width, line)
            assert len(line) <= width, (width, line)
            assert not re.search(r"\S…", line), (width, line)
        figures[width] = set(re.findall(r"[-+]?\d[\d,.]*(?:e[-+]\d+)?", " ".join(lines)))
    if name in PRINTS_NUMBERS:
        # Names with the width, and rates, differ from call to call.
        assert {one for one in figures[120] if "." in one[1:-1]} <= figures[40]


def test_a_file_has_whole_lines_unless_COLUMNS_says_how_wide_it_is(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    facts = Facts()
    facts.add("output", "word " * 100)
    show(facts, "word " * 100)
    assert [len(line) for line in capsys.readouterr().out.splitlines()] == [507, 499]


def drawn(grid, width):
    console = Console(width=width, file=sys.stdout, force_terminal=False)
    with console.capture() as captured:
        console.print(grid)
    return captured.get()


def test_columns_without_room_continue_below():
    grid = Grid("label", "right", "share", "", "support", right=("right", "support"))
    grid.add("positive", "1,234,567", "0.12345", "%", "12")
    lines = [line.rstrip() for line in drawn(grid, 30).splitlines()]
    assert lines == [
        "label         right",
        "positive  1,234,567",
        "",
        "label     share       support",
        "positive  0.12345  %       12",
    ]
    assert drawn(grid, 80).count("\n") == 2


@pytest.mark.parametrize("width", [1, 2, 7, 20, 40])
def test_long_texts_are_folded_before_figures(width):
    grid = Grid("source", "row", "label", "", keys=2)
    grid.add("folder/" * 20 + "file.parquet", "123,456", "a label of several words", "0.1234")
    text = drawn(grid, width)
    letters = re.sub(r"\s", "", text)
    assert all(len(line) <= width for line in text.splitlines())
    if width >= 40:
        assert {"123,456", "0.1234"} <= set(text.split())
        assert "file.parquet" in letters or "parquet" in letters


def test_the_columns_of_an_empty_table_are_named():
    assert drawn(Grid("source", "rows"), 40).split() == ["source", "rows"]


def test_brackets_are_no_markup(capsys):
    show("[red]a[/red] [/x]")
    assert capsys.readouterr().out == "[red]a[/red] [/x]\n"


def test_no_command_prints_past_these_views():
    """Spaces at the ends of lines come back with each console of its own."""
    folder = ROOT / "bertbatch"
    allowed = {"lines.py", "progress.py", "progress_bar.py"}
    for path in folder.rglob("*.py"):
        if path.name not in allowed:
            assert "Console(" not in path.read_text(), path
