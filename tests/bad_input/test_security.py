"""Hostile job files, inputs, models and outputs: refused with a message, and nothing gets out."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from bertbatch import Job, JobError
from bertbatch.checks.verify import verify
from bertbatch.cli import app
from bertbatch.output import commit
from bertbatch.output.folder import open_output
from bertbatch.output.part import encode_part
from bertbatch.runtime.executors import ray_start
from bertbatch.storage.stores import Store
from bertbatch.units import Cut, Source, Span, Unit
from tests.helpers.jobs import make_job

BASE = "input: {path: a, storage_options: {secret: hunter2}}\noutput: {path: b}\n"
SECTIONS = [*Job.model_fields, "storage_options", "path", "csv", "limit", "x"]
ODD = [1e999, float("nan"), 10**400, -1, "", "{date-99999}", "{", "\x00", "\ud800", "[/x]"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from(ODD),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(SECTIONS) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)
PIECES = [
    *("input: ", "output: ", "path: ", "date: ", "run: ", "\n", "  ", "- ", "? ", ": ", ", ", "x"),
    *("[", "]", "{", "}", "&a ", "*a", "<<: ", "'", '"', "|", "#", "%", "---\n", "\t", "\ufeff"),
    *("!!int ", "!!bool ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!x "),
    *("!!python/name:os.system ", "0x" + "f" * 4000, "9" * 5000, "1:60", "2026-02-30", ".nan"),
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs") / "job.yaml"


def load(path: Path, content: bytes, changes: list[str] | None = None) -> str:
    """The job, or the message that says why there is none."""
    path.write_bytes(content)
    try:
        return repr(Job.load(path, changes))
    except JobError as error:
        return str(error)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from(SECTIONS), VALUES), st.sampled_from(SECTIONS), VALUES)
def test_job_files_with_wrong_values_are_refused_with_a_message(
    file: Path, extra: Any, key: str, value: Any
) -> None:
    data = {**yaml.safe_load(BASE), **extra}
    content = yaml.dump(data, Dumper=yaml.SafeDumper).encode("utf-8", "surrogatepass")
    assert load(file, content, [f"{key}={value}", f"input.{key}={value}", f"runtime.{key}={value}"])


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.binary(max_size=3))
@example("run: 0x" + "f" * 4000, b"")
@example("x: " + "[" * 1000, b"")
@example("x: " + "[" * 300 + "]" * 300, b"")
def test_job_files_that_are_hardly_yaml_are_refused_with_a_message(
    file: Path, text: str, raw: bytes
) -> None:
    assert "hunter2" not in load(file, (BASE + text).encode() + raw)
    assert load(file, text.encode() + raw, [text, f"run={text}", f"date={text}"])


@pytest.mark.parametrize(
    ("level", "wide", "levels"),
    [("{{<<: [{0}]}}", 10, 5), ("[{0}]", 10, 5), ("{{a: {0}}}", 1, 110), ("[{0}, *a1]", 0, 1)],
    ids=["merges", "lists", "a chain", "itself"],
)
def test_aliases_cannot_stand_for_everything(
    file: Path, level: str, wide: int, levels: int
) -> None:
    lines = ["a0: &a0 {k: 1}"]
    for n in range(levels):
        lines.append(f"a{n + 1}: &a{n + 1} " + level.format(", ".join([f"*a{n}"] * wide) or "x"))
    message = load(file, (BASE + "\n".join(lines)).encode())
    assert "nested too deeply, or its aliases" in message
    shared = "x: &x {a: 1}\ny: {<<: *x}"  # aliases as such are fine
    assert "unknown key 'x'" in load(file, (BASE + shared).encode())


def test_the_size_of_a_job_file_is_bounded_by_what_it_says(file: Path) -> None:
    many = [f"s3://bucket/folder/{'x' * 90}/{n:06}.parquet" for n in range(2000)]
    text = yaml.safe_dump({"input": {"path": many}, "output": {"path": "b"}})
    assert many[-1] in load(file, text.encode())
    endless = "1:" * 50_000 + "1"  # in base 60: PyYAML's time grows with the square
    for value in (endless, f"!!float '{endless}.0'"):
        assert "digits" in load(file, (BASE + f"run: {value}").encode())


@pytest.mark.parametrize(
    "secret",
    [
        *("*hunter2", "!hunter2 x", '"hunter2', "[hunter2", "hunter2: :", "!!int hunter2"),
        *("!x'hunter2'", "!!int 'x<hunter2'", '!!float "o\'hunter2"', "!'hunter2", "!a'b'hunter2"),
        *("!hunter2!x y", '"\\hunter2"', "!!float 'a\\\"hunter2''b'"),
    ],
)
def test_errors_are_reported_without_the_secret_beside_them(file: Path, secret: str) -> None:
    file.write_text(f"output: {{path: b}}\ninput:\n  storage_options:\n    secret: {secret}\n")
    shown = CliRunner().invoke(app, ["run", str(file)])
    assert (shown.exit_code, "hunter2" in shown.output) == (2, False)
    file.write_text(BASE)
    for change in ("input.path.secret=hunter2", "=hunter2"):
        with pytest.raises(JobError) as caught:
            Job.load(file, [change])
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["input.path", "output.path", "alarms.against"])
def test_passwords_in_urls_are_refused_unseen(key: str) -> None:
    urls = ("ftp://me:hunter2@host/x", "zip::http://:hunter2@host/x", "ftp://me@a.b:hunter2@host/x")
    for url in urls:
        with pytest.raises(JobError, match=rf"^{key}: holds a password") as caught:
            Job.build(yaml.safe_load(BASE), changes=[f"{key}={url!r}"])
        assert "hunter2" not in str(caught.value)
    Job.build(yaml.safe_load(BASE), changes=[f"{key}='s3://bucket/a:b@c'"])


def test_a_clusters_dashboard_shows_no_secret(file: Path) -> None:
    file.write_text("input: {path: /a}\noutput: {path: /b}")
    words = ["submit", str(file), "--address", "http://me@a.b:hunter2@127.0.0.1:1"]
    for change in (
        "input.storage_options.secret=hunter2",
        "output.storage_options=hunter2",
        "output={path: /b, storage_options: {secret: hunter2}}",
    ):
        shown = CliRunner().invoke(app, [*words, "--set", change])
        assert shown.exit_code == 2
        assert "storage_options" in shown.output
        assert "hunter2" not in shown.output
    shown = CliRunner().invoke(app, words)
    assert (shown.exit_code, "hunter2" in shown.output) == (2, False)
    assert "127.0.0.1:1" in shown.output


def test_errors_of_stores_hold_no_secret(file: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2")
    quick = {"config_kwargs": {"retries": {"max_attempts": 0}}, "key": "hunter2"}
    for endpoint in ("http://127.0.0.1:1", "http://me:hunter2@nowhere at all", "me://u:hunter2@x"):
        options = {**quick, "secret": "${A_SECRET}", "endpoint_url": endpoint}
        for side in ("input", "output"):
            data: Any = {"input": {"path": __file__, "format": "csv"}, "output": {"path": "b"}}
            data[side] = {**data[side], "path": "s3://b/x", "storage_options": options}
            file.write_text(yaml.safe_dump(data))
            shown = CliRunner().invoke(app, ["plan", str(file)])
            assert shown.exit_code == 2, shown.output
            assert f"{side}.path" in shown.output
            assert "hunter2" not in shown.output


def test_the_environment_is_read_in_storage_options_only(file: Path, monkeypatch) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2")
    keys = {"input.text": "${A_SECRET}", "model.name": "${A_SECRET}", "output.path": "a${A_SECRET}"}
    for key, value in keys.items():
        assert "hunter2" not in load(
            file, b"input: {path: a}\noutput: {path: b}", [f"{key}={value}"]
        )


@given(st.text(max_size=80) | st.text(st.sampled_from("./\\~\x00:ab"), max_size=20))
@example("\U00020000" * 80)
def test_a_part_lies_in_the_output_whatever_its_source_is_called(name: str) -> None:
    part = Unit("0" * 20, (Span(Source(name, "", 1, "1"), Cut(0, 1, 0, 1, 1)),)).part
    assert part.startswith("part-")
    assert not set(part) & set("/\\\x00:~")
    assert len(part.encode()) <= 255  # what Linux takes


@pytest.mark.parametrize("wrong", ["../x", "a/b", "..", ".x", "a\nb", "2026-01-01/../x", "~"])
def test_a_placeholders_value_leads_nowhere_else(file: Path, wrong: str) -> None:
    file.write_text("input: {path: a}\noutput: {path: 'b/{run}/{date}'}")
    for flag in ("--run", "--date"):
        shown = CliRunner().invoke(app, ["run", str(file), flag, wrong])
        assert (shown.exit_code, flag[2:] in shown.output) == (2, True)


@pytest.mark.parametrize("name", ["../victim", "/victim", "_bertbatch/attention/../../../victim"])
def test_footers_lead_to_nothing_outside(score, tmp_path: Path, monkeypatch, name: str) -> None:
    (tmp_path / "in.csv").write_text("text\na\nb,c\n")
    out, victim = tmp_path / "out", tmp_path / "victim"
    keys = {"limits.max_quarantined": 1}
    assert score(tmp_path / "in.csv", out, **keys).exit_code == 0
    output = open_output(str(out))
    ((id_, part),) = output.committed().items()
    footer, table = output.part(part)
    victim.write_bytes(output.store.read(output.at(footer["side_files"]["quarantine"])))
    path = name if name[0] != "/" else str(victim)
    harmful = {**footer, "side_files": {"quarantine": path}}
    output.store.replace(output.at(part), encode_part(table, harmful))
    opened: list[str] = []
    real = Store.read
    monkeypatch.setattr(Store, "read", lambda *a, **k: opened.append(str(a[1])) or real(*a, **k))
    verdict = verify(output, clean=True)
    assert "no side file" in verdict.problems[0]
    unit = Unit(id_, (Span(Source("in.csv", "", 1, "1"), Cut(0, 2, 0, 1, 1)),))
    assert unit.part == part
    commit.write_tombstone(output, unit, table.schema)
    assert victim.exists()
    assert not [path for path in opened if "victim" in path]


@pytest.mark.parametrize("kind", ["bert", "unknown"])
def test_code_beside_a_model_is_not_run(score, tmp_path: Path, tiny_model: str, kind: str) -> None:
    folder, marker = tmp_path / "model", tmp_path / "was-here"
    shutil.copytree(tiny_model, folder)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: ...\n")
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification")
    config |= {"model_type": kind, "auto_map": dict.fromkeys(names, "evil.Evil")}
    (folder / "config.json").write_text(json.dumps(config))
    settings_file = folder / "tokenizer_config.json"
    tokenizer = json.loads(settings_file.read_text())
    tokenizer |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    settings_file.write_text(json.dumps(tokenizer))
    (tmp_path / "in.csv").write_text("text\na\n")
    keys = {"model.name": str(folder)}
    if kind == "bert":
        assert score(tmp_path / "in.csv", tmp_path / "out", **keys).exit_code == 0
    else:
        with pytest.raises(JobError, match=r"model\.name"):
            score(tmp_path / "in.csv", tmp_path / "out", **keys)
    assert not marker.exists()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}')
    with pytest.raises(JobError, match=r"outside of the model's folder"):
        score(tmp_path / "in.csv", tmp_path / "other", **keys)


HEADERS: list[Any] = [5, "x", [1], {"a": 1}, {"a": {"data_offsets": [0, 4]}}, {"a": {"shape": []}}]
HEADERS += [{"a": {"shape": 5, "data_offsets": [0, 4]}}, {"a": {"data_offsets": []}}, {}]


@pytest.mark.parametrize("header", HEADERS)
def test_files_that_are_no_weights_are_refused(
    score, tmp_path: Path, tiny_model: str, header: Any
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    data = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data + b"four")
    (tmp_path / "in.csv").write_text("text\na\n")
    with pytest.raises(JobError, match="is not a whole safetensors file"):
        score(tmp_path / "in.csv", tmp_path / "out", **{"model.name": str(folder)})
    index = folder / "model.safetensors.index.json"
    for wrong in ({"weight_map": header}, {"weight_map": {"a": header}}, {}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(JobError):
            score(tmp_path / "in.csv", tmp_path / "out", **{"model.name": str(folder)})


@pytest.mark.parametrize("footer", [{}, [], 5, {"unit": 1}, None])
def test_parts_with_wrong_footers_are_reported(score, tmp_path: Path, footer: Any) -> None:
    (tmp_path / "in.csv").write_text("text\na\nb,c\n")
    out, keys = tmp_path / "out", {"limits.max_quarantined": 1}
    assert score(tmp_path / "in.csv", out, **keys).exit_code == 0
    output = open_output(str(out))
    ((_, part),) = output.committed().items()
    whole, table = output.part(part)
    for wrong in (footer, {**whole, "side_files": footer or 7}, {**whole, "rows_scored": [footer]}):
        output.store.replace(output.at(part), encode_part(table, wrong))
        shown = CliRunner().invoke(app, ["verify", str(out), "--clean"])
        assert (shown.exit_code, "cannot be read" in shown.output) == (3, True), shown.output
        output.side(whole["side_files"]["quarantine"])  # is not taken for nobody's
        shown = CliRunner().invoke(app, ["status", str(out)])
        assert (shown.exit_code, part in shown.output) == (3, True), shown.exception
    (out / "_SUCCESS.json").write_text("[5]")
    assert CliRunner().invoke(app, ["verify", str(out)]).exit_code == 3


def test_names_are_shown_as_they_are(tmp_path: Path, tiny_model: str, file: Path) -> None:
    """Nothing in a source's name, a label or a text is markup, nor breaks what is shown."""
    odd = ("[/b]<script>", "[bold]&x")
    (tmp_path / f"{odd[1]}.csv").write_text(f"text\n{odd[0]}\nb\n")
    data = make_job(tiny_model, "a", "b").model_dump(mode="json", exclude={"attention"})
    data["input"] |= {"path": [str(tmp_path / f"{odd[1]}.csv")]}
    data["output"] |= {"path": str(tmp_path / "[/out]")}
    data["model"] |= {"labels": list(odd)}
    file.write_text(yaml.safe_dump(data))
    for words in (["run", file], ["plan", file], ["status", tmp_path / "[/out]"]):
        shown = CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "300"})
        assert shown.exit_code == 0, (words, shown.output, shown.exception)
        assert "[/out]" in shown.output or "[bold]&x" in shown.output
    shown = CliRunner().invoke(app, ["peek", odd[0], "--model", tiny_model])
    assert shown.exit_code == 0, shown.output
    assert "[UNK]" in shown.output


def test_rays_own_start_has_no_dashboard(monkeypatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(ray_start.ray, "init", lambda **options: given.update(options))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    scratch = ray_start.start_ray(False)
    assert scratch
    scratch.close(keep=False)
    assert (given["address"], given["include_dashboard"]) == ("local", False)


@pytest.mark.faults
def test_nobody_joins_a_ray_without_its_token(tmp_path: Path) -> None:
    script = """
import os, ray, subprocess, sys
from bertbatch.runtime.executors.ray_start import start_ray
start_ray(False)
address = ray.get_runtime_context().gcs_address
code = f"import ray; ray.init(address={address!r}, log_to_driver=False)"
for auth in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token"}):
    command = [sys.executable, "-c", code]
    print(subprocess.run(command, env={**os.environ, **auth}, capture_output=True).returncode)
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env["HOME"] = str(tmp_path)  # where the token is
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "0"], done.stderr
