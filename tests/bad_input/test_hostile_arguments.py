"""Whatever is typed, and whatever lies where an output should be: a sentence, never a traceback."""

import gzip
import json
import random
import shutil

import pytest
import yaml
from typer.main import get_command

from bertbatch.cli import app
from bertbatch.runtime import submit
from tests.helpers.command_line import invoke
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts

COMMANDS = {
    "score": ["score", "{}", "{dir}/o1", "--runner", "inline", "--model", "{model}"],
    "score into": ["score", "{in}", "{}", "--runner", "inline", "--model", "{model}"],
    "score with": ["score", "{in}", "{dir}/o2", "--runner", "inline", "--model", "{}"],
    "run": ["run", "{}"],
    "plan": ["plan", "{}"],
    "submit": ["submit", "{}", "--address", "http://127.0.0.1:9"],
    "submit to": ["submit", "{job}", "--address", "{}"],
    "status": ["status", "{}"],
    "verify": ["verify", "{}"],
    "verify clean": ["verify", "{}", "--clean"],
    "verify job": ["verify", "{out}", "--rescore", "1", "--job", "{}"],
    "attention": ["attention", "{}", "--to", "{dir}/t.parquet"],
    "attention to": ["attention", "{out}", "--to", "{}"],
    "attention against": ["attention", "{out}", "--against", "{}", "--to", "{dir}/t.parquet"],
    "peek": ["peek", "{}", "--model", "{model}"],
    "peek with": ["peek", "a", "--model", "{}"],
    "peek html": ["peek", "a", "--model", "{model}", "--html", "{}"],
    "peek token": ["peek", "a b", "--model", "{model}", "--token", "{}"],
}
HOSTILE = {
    **{name: name for name in ("", " ", ".", "-", "~", "*", "[", "{x}", "a\nb", "a\x1b[31mb")},
    "nowhere": "{dir}/nowhere",
    "deep nowhere": "{dir}/no/where/at/all",
    "a folder": "{dir}/folder",
    "a file": "{dir}/file",
    "below a file": "{dir}/file/x",
    "binary": "{dir}/binary",
    "a loop": "{dir}/loop",
    "a pipe": "{dir}/link",
    "no Unicode": "{dir}/\udcff\udc80",
    "long": "n" * 5000,
    "long path": "/".join(["n" * 200] * 30),
    "nul": "a\0b",
    "emoji": "😀" * 40,
    "unknown protocol": "nonsense://x/y",
    "chained": "simplecache::nonsense://x",
    "no host": "http://",
    "a port that is none": "http://127.0.0.1:99999/x",
    "closed": "http://127.0.0.1:9/x",
    "memory": "memory://nothing",
    "s3 without bucket": "s3://",
    "gcs": "gs://",
    "ftp": "ftp://127.0.0.1:9/x",
    "sftp": "sftp://127.0.0.1:9/x",
    "password": "s3://user:pass@host/x",
}

ALWAYS = (  # the others in the slow tests
    *("", "nowhere", "a file", "below a file", "binary", "a loop", "no Unicode", "long", "nul"),
    *("unknown protocol", "closed", "s3 without bucket"),
)


@pytest.fixture(scope="module")
def here(tmp_path_factory, tiny_model):
    """An output with everything in it, its job file, and things that are neither."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "folder").mkdir()
    (folder / "file").write_text("text")
    (folder / "binary").write_bytes(bytes(range(256)))
    (folder / "loop").symlink_to("loop")
    (folder / "link").symlink_to("gone")
    write_parquet(folder / "in.parquet", [*make_texts(30), None])
    job = {
        "input": {"path": str(folder / "in.parquet"), "carry": ["id"]},
        "output": {"path": str(folder / "out")},
        "model": {"name": tiny_model, "dtype": "float32", "tokens_per_batch": 512},
        "limits": {"max_quarantined": 1},
        "attention": {},
        "runtime": {"runner": "inline", "unit_rows": 10},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    assert invoke("run", str(folder / "job.yaml"))[0] == 0
    return folder


@pytest.fixture
def type_(here, tiny_model, monkeypatch):
    """Runs a command with its places filled in; an exception is a test that fails."""
    monkeypatch.setattr(submit, "CONNECT_SECONDS", 0)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(here)
    where = {"dir": str(here), "in": str(here / "in.parquet"), "job": str(here / "job.yaml")}
    where |= {"out": str(here / "out"), "model": tiny_model}

    def filled(word):
        for name, value in where.items():
            word = word.replace("{" + name + "}", value)
        return word

    def go(words, hostile=""):
        return invoke(*(filled(hostile) if word == "{}" else filled(word) for word in words))

    return go


@pytest.mark.parametrize(
    "hostile",
    [h if h in ALWAYS else pytest.param(h, marks=pytest.mark.slow) for h in HOSTILE],
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_hostile_argument_gives_no_traceback(command, hostile, type_):
    type_(COMMANDS[command], HOSTILE[hostile])


WRONG = (None, [], "x", -1, 1e300, {"x": None})
READING = {
    "status": ["status", "{out}"],
    "verify": ["verify", "{out}", "--clean"],
    "attention": ["attention", "{out}", "--to", "{dir}/t.parquet"],
    "compare": ["attention", "{out}", "--against", "{out}", "--to", "{dir}/t.parquet"],
    "plan": ["plan", "{job}"],
    "run": ["run", "{job}"],
    "again": ["run", "{job}", "--retry-quarantined"],
    "rescore": ["verify", "{out}", "--rescore", "2", "--job", "{job}"],
}


def spoilt(data):
    """Bytes that are not what they were, or are JSON and no such record."""
    yield from (
        b"",
        data[: len(data) // 2],
        b"\0\xff\x00binary",
        b"null",
        b"[]",
        b"{}",
        b'"x"',
        b"7",
    )
    yield b"[" * 100_000


def misshapen(value):
    """A JSON value with each key, at any depth, gone or of another kind, one at a time."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:2])
    for key, inner in list(items):
        for other in WRONG:
            changed = value.copy()
            changed[key] = other
            yield changed
        without = value.copy()
        del without[key]
        yield without
        if isinstance(inner, dict | list):
            for changed in misshapen(inner):
                whole = value.copy()
                whole[key] = changed
                yield whole


FILES = {
    "contract": "_bertbatch/job.yaml",
    "plan": "_bertbatch/plan/*.json.gz",
    "run": "_bertbatch/runs/*.json",
    "lease": "_bertbatch/lease.json",
    "success": "_SUCCESS.json",
    "part": "*.parquet",
    "quarantine": "_bertbatch/quarantine/*.arrow",
    "statistics": "_bertbatch/attention/*.arrow",
}


def load(path):
    data = path.read_bytes()
    if path.suffix == ".gz":
        return json.loads(gzip.decompress(data))
    return yaml.safe_load(data) if path.suffix == ".yaml" else json.loads(data)


def store(path, value):
    data = json.dumps(value).encode()  # which is YAML, too
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture(scope="module")
def whole(here):
    shutil.copytree(here / "out", here / "whole")
    return here / "whole"


@pytest.fixture
def spoil(here, whole, type_):
    """Puts each of some contents in a file of the output's place, and runs a command on it."""

    def go(name, command, contents):
        out = here / "out"
        lease = {"run": "x", "host": "elsewhere", "pid": 1, "born": "1", "beat": 1, "progress": {}}
        for content in contents:
            shutil.rmtree(out)
            shutil.copytree(whole, out)
            path = next(iter(out.glob(FILES[name])), out / FILES[name])
            if name == "lease":
                store(path, lease)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                store(path, content)
            try:
                type_(READING[command])
            except BaseException as error:
                error.add_note(f"{name} is {str(content)[:300]}")
                raise

    yield go
    shutil.rmtree(here / "out")
    shutil.copytree(whole, here / "out")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        *(("contract", "status"), ("plan", "status"), ("run", "status"), ("lease", "status")),
        *(("success", "status"), ("part", "verify"), ("quarantine", "again")),
        *(("statistics", "attention"), ("part", "attention")),
        *(
            pytest.param(name, command, marks=pytest.mark.slow)
            for name in FILES
            for command in READING
        ),
    ],
)
def test_an_output_with_a_damaged_file_gives_no_traceback(name, command, here, spoil):
    path = next((here / "out").glob(FILES[name]), None)
    spoil(name, command, spoilt(path.read_bytes() if path else b"{}"))


@pytest.mark.parametrize(
    "some", [25, pytest.param(None, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.parametrize(
    ("name", "command"),
    [
        *(("contract", "verify"), ("contract", "compare"), ("plan", "verify")),
        *(("run", "status"), ("lease", "status"), ("success", "verify")),
    ],
)
def test_an_output_with_a_record_of_other_kinds_gives_no_traceback(
    name, command, some, here, spoil
):
    """Some of what there is, and in the slow tests all."""
    path = next((here / "out").glob(FILES[name]), None)
    value = load(path) if path else {"run": "x", "host": "h", "pid": 1, "born": "", "progress": {}}
    every = list(misshapen(value))
    spoil(name, command, every if some is None else random.Random(0).sample(every, some))


def test_an_option_is_no_other_options_value(monkeypatch):
    """Else `peek TEXT --html --to x.html` writes a page called `--to`."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    seen = 0
    for name, one in get_command(app).commands.items():
        for option in one.params:
            if option.param_type_name != "option" or option.is_flag:
                continue
            words = ["x"] * sum(p.param_type_name == "argument" for p in one.params)
            for other in one.params:
                if other.required and other.param_type_name == "option" and other is not option:
                    words += [other.opts[0], "x"]
            code, said = invoke(name, *words, option.opts[0], "--so")
            assert code == 2
            assert f"'{option.opts[0]}'" in said
            seen += 1
    assert seen > 60
