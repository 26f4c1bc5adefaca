"""What a wrong job file is told: the file, the line, the key, in words of no library."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bertbatch import Job, JobError
from tests.helpers.paths import ROOT

EVERY_KEY = (ROOT / "jobs" / "every-key.yaml").read_text()
FOREIGN = re.compile(
    r"Input should|validation error|Extra inputs|unable to|mapping values|expected <|pydantic"
    r"|yaml\.|type=|Value error|class '|isoformat|instance of|could not find|while scanning"
    r"|while parsing|<stream|scalar|literal\[|list\[str\]|function-after"
)
WRONG = [None, -1, 1e9, 1.5, True, "nonsense!", "", [], [None], [{}], {}, {"a": {}}, {"a": None}]


def refused(path: Path, content: str) -> str:
    """The message about a job file that is refused, or nothing."""
    path.write_text(content)
    try:
        Job.load(path)
        return ""
    except JobError as error:
        return str(error)


def keys_of(section: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in section.items():
        yield (*above, key)
        if isinstance(value, dict) and key != "storage_options":
            yield from keys_of(value, (*above, key))


def changed(keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(yaml.safe_load(EVERY_KEY))
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return data


KEYS = [*keys_of(yaml.safe_load(EVERY_KEY)), ("models",)]


@pytest.mark.parametrize("keys", KEYS, ids=".".join)
def test_a_wrong_value_is_told_with_file_line_and_key(keys, tmp_path):
    """Whatever stands at any key: a wrong type, nothing, a list, a section, a word, a number."""
    path = tmp_path / "job.yaml"
    said = 0
    for value in WRONG:
        content = yaml.safe_dump(changed(keys, value), sort_keys=False)
        message = refused(path, content)
        for line in filter(None, message.splitlines()):
            said += 1
            assert not FOREIGN.search(line), (value, line)
            assert line.startswith(f"{path}"), line
            assert keys[-1] in line or keys[0] in line, (value, line)
            if not (number := re.match(r".*?\.yaml, line (\d+): ", line)):
                # What is wrong with two keys together, or a placeholder, has no one line.
                assert not re.search("must be (text|a|true|above|at|below)", line), line
            elif keys[-1] != "models":
                shown = content.splitlines()[int(number[1]) - 1]
                assert {keys[0], keys[-1]} & {
                    *re.findall(r"\w+", shown)
                } or shown.strip().startswith("a:"), line
    assert said > 1 or keys[-1] in ("name", "revision", "prefix", "text", "hypothesis_template")


@pytest.mark.parametrize("keys", KEYS, ids=".".join)
def test_a_misspelled_key_is_told_with_the_one_that_there_is(keys, tmp_path):
    data = changed(keys, None)
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner.pop(keys[-1])
    wrong = f"{keys[-1]}x"
    inner[wrong] = "a"
    content = yaml.safe_dump(data, sort_keys=False)
    message = refused(tmp_path / "job.yaml", content)
    line = next(n for n, one in enumerate(content.splitlines(), 1) if f"{wrong}:" in one)
    begin = f"{tmp_path}/job.yaml, line {line}: unknown key '{'.'.join((*keys[:-1], wrong))}'"
    assert f"{begin}; did you mean '{'.'.join(keys)}' (" in message
    assert not re.search("Extra inputs", message)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("input:\n\tpath: x\n", "line 2, column 1: a tab"),
        ('input:\n  path: "x\n  text: y\n', "line 2, column 9: a quote that begins here"),
        ("input:\n  path: 'x\n", "line 2, column 9: a quote that begins here"),
        ("input: {path: x\noutput: {path: y}\n", "line 1, column 8: a comma is missing, or the }"),
        ("input:\n  path: [a, b\noutput:\n  path: y\n", "line 2, column 9: a comma is missing, or"),
        ("input: a]\noutput: ]\n", "line 2, column 9: a value is missing before this, or a"),
        ("input:\n  path: x\n   text: y\n", "line 3, column 8: ': ' for the second time, or a"),
        ("input:\n   path: x\n  text: y\n", "line 3, column 3: a wrong indentation"),
        ("input:\n  path: a\n  path: b\n", "line 3, column 3: a key is there twice, first in"),
        ("input: {path: a, path: b}\n", "line 1, column 18: a key is there twice"),
        ("input: &x {path: a}\noutput: *y\n", "line 2, column 9: a value that begins with *"),
        ("input: {path: *.csv}\n", "line 1, column 16: a value that begins with *"),
        ("a: &x 1\nb: &x 2\n", "line 2, column 4: two anchors"),
        ("a: & b\n", "a value that begins with & is an anchor"),
        ("input:\n  path: a\x01b\n", "line 2, column 10: a control character (U+0001)"),
        ("a: \x00", "line 1, column 4: a control character (U+0000)"),
        ("a: b: c\n", "line 1, column 5: ': ' for the second time"),
        ("a: b\n- c\n", "line 2, column 1: a list item (-)"),
        ("a: - b\n", "a list item (-)"),
        ("a: @b\n", "a value cannot begin with @"),
        ("a: `b`\n", "a value cannot begin with `"),
        ("a: 'it's'\n", "something follows a value that is complete: put the whole value"),
        ("input:\n  path: {date}/x\n", "line 2, column 15: something follows a value"),
        ('a: "C:\\data"\n', "a backslash means itself only in single quotes"),
        ("a: !x y\n", "a value that begins with ! is a tag"),
        ("a: !!python/object:os.system x\n", "a value that begins with ! is a tag"),
        ("a: !!binary zzz\n", "a value that is not base64"),
        ("a: |x\n  y\n", "a value that begins with | or > is a block"),
        ("a: 1\n---\nb: 2\n", "a second document begins here"),
        ("a: 1\nb\n", "a key without ': ' after it"),
        ("? [a]\n: b\n", "a key must be plain text"),
        ("<<: 3\n", "'<<' must be followed by an alias"),
        ("%a\n", "no key with a value"),
        ("date: 2026-02-30\n", "line 1, column 7: this is no day or time"),
        ("limits: {max_hours: 8:30}\n", "line 1, column 21: a number cannot have ':'"),
        ("a: !!int x\n", "this is no number"),
        ("- a\n", "a job file has keys with values"),
        ("", "a job file has keys with values"),
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_told_with_its_line(text, said, tmp_path):
    message = refused(tmp_path / "job.yaml", text)
    assert message.startswith(f"{tmp_path}/job.yaml: ")
    assert said in message
    assert not FOREIGN.search(message), message


def test_a_job_file_in_another_encoding_is_told(tmp_path):
    (tmp_path / "job.yaml").write_bytes("input: {path: Übung}".encode("latin-1"))
    with pytest.raises(JobError, match=r"job\.yaml: byte 15 is not UTF-8"):
        Job.load(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.top_k=two", "--set model.top_k: 'model.top_k' must be a whole number; found 'two'"),
        ("model={max_length: 1}", "--set model: 'model.max_length' must be at least 3; found 1"),
        ("date=tomorrow", "--date: must be a day, such as"),
        ("run=a/b", "--run: 'run' must be letters"),
        ("input.storage_options=hunter2", "must be a section of keys with values; found a text"),
        ("input.where=a >", "is not a condition: it cannot be read near '>'"),
        ("input.where='''", "is not a condition: it cannot be read"),
        ("input.template={a", "has a brace without its pair"),
        ("input.normalize=[nfkc, nfkd]", "'input.normalize', item 2, must be 'nfkc', 'html' or"),
        ("model.labels=[no, yes]", "'model.labels', item 1, must be text; found false; put it in"),
        ("models=[a]", "'models', item 1, is a section with the keys"),
        ("input.path={date: null}", "found a section; put a value with braces in quotes"),
    ],
)  # fmt: skip
def test_a_wrong_change_is_told_as_such(change, said, tmp_path):
    (tmp_path / "job.yaml").write_text("input: {path: a}\noutput: {path: b}\n")
    with pytest.raises(JobError) as caught:
        Job.load(tmp_path / "job.yaml", [change])
    assert said in str(caught.value)
    assert not FOREIGN.search(str(caught.value).partition("(")[0])
