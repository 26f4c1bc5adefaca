"""The documents say what the program does, or this fails."""

import re

import pytest
import typer

from bertbatch import Job
from bertbatch.cli import app
from bertbatch.job.schema import Attention
from bertbatch.registry import ENGINES, FORMATS, STATISTICS, TASKS
from recipes import docs
from tests.helpers.inventory import PACKAGE, ROOT, flags
from tests.helpers.mentions import OUTSIDE, OUTSIDE_FLAGS, pages, wrong_in, wrong_in_code


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_mentions_is_there(page):
    assert list(wrong_in(page.read_text(), page)) == []


def test_what_the_code_mentions_is_there():
    found = {str(path.relative_to(ROOT)): list(wrong_in_code(path)) for path in modules()}
    assert {path: what for path, what in found.items() if what} == {}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize(
    "text",
    [
        "see `plans.py`",
        "see `engines/watched.py`",
        "see `docs/nothing.md`",
        "see `nowhere/`",
        "see `stages.score`",
        "see `RULES` in `output/folder.py`",
        "see `Result.to_polars()`",
        "see `bertbatch.errors.Alert`",
        "see `check_nothing()`",
        "see `SurveyResult`",
        "see `NO_SUCH_CONSTANT`",
        "see `rows_gone`",
        "run `bertbatch score-all a b`",
        "run `bertbatch run job.yaml --retry`",
        "run `make everything`",
        "run `python -m benchmarks.nothing`",
        "with `--no-such-flag`",
        "set `input.texts`",
        "set `runtime.runner: dask`",
        "set `model.dtype: int4`",
        "set `unit_kib: 8`",
        "see [this](nothing.md)",
        "see [this](design.md#nothing)",
        "so:\n\n    bertbatch plan job.yaml --no-such-flag\n",
        "so:\n\n```console\n$ bertbatch plans job.yaml\n```\n",
        "so:\n\n```yaml\ninput: {path: a, columns: b}\n```\n",
        "so:\n\n```python\nfrom bertbatch import scores\n```\n",
    ],
)
def test_a_wrong_mention_is_found(text):
    assert len(list(wrong_in(text, ROOT / "docs" / "design.md"))) == 1


@pytest.mark.parametrize(
    "said", ['"""See plans.py."""', "x = 1  # see `_no_such`", '"""See `NoSuchClass`."""']
)
def test_a_wrong_mention_in_code_is_found(said, tmp_path):
    (tmp_path / "module.py").write_text(said)
    assert len(list(wrong_in_code(tmp_path / "module.py"))) == 1


def test_names_from_outside_are_mentioned():
    said = "\n".join(path.read_text() for path in [*pages(), *modules()])
    assert [name for name in sorted(OUTSIDE | OUTSIDE_FLAGS) if name not in said] == []


@pytest.mark.parametrize("block", docs.BLOCKS)
def test_generated_blocks_are_as_generated(block):
    page, make = docs.BLOCKS[block]
    text = (ROOT / page).read_text()
    assert docs.filled(text, block, make()) == text, "run `python -m recipes.docs`"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_page_is_listed():
    listed = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in listed, page.name


def test_every_command_is_shown():
    shown = (ROOT / "docs" / "commands.md").read_text().partition("<!-- generated")[0]
    assert set(flags()) == set(re.findall(r"^    bertbatch (\w+)", shown, re.M))


def test_every_option_tells_its_default():
    for name, one in typer.main.get_command(app).commands.items():
        for option in one.params:
            shown = option.show_default
            said = option.default is not None or (isinstance(shown, str) and shown != "")
            assert said or option.required or not option.opts[0].startswith("-"), (name, option)


def test_job_files_are_valid():
    for path in (ROOT / "jobs").glob("*.yaml"):
        Job.load(path)


def test_every_key_has_an_example():
    assert sorted(docs.EXAMPLES) == sorted(docs.job_keys())


def test_kinds_are_in_the_documents():
    design = (ROOT / "docs" / "design.md").read_text()
    for name in (*FORMATS, *TASKS, *ENGINES):
        assert f"`{name}`" in design, name
    explained = (ROOT / "docs" / "attention.md").read_text()
    for name in STATISTICS:
        assert f"`{name}`" in explained, name
    for name in Attention.model_fields:
        assert f"`attention.{name}`" in explained, name


def test_direct_dependencies_have_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)\]", text, re.S | re.M)
    assert block
    design = (ROOT / "docs" / "design.md").read_text()
    pins = (ROOT / "constraints.txt").read_text().lower()
    for name in re.findall(r'"([a-z0-9-]+)', block[1]):
        assert f"`{name}`" in design, f"{name} has no reason in docs/design.md"
        assert f"\n{name.replace('-', '_')}==" in pins.replace("-", "_"), name
