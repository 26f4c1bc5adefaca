"""Small real things: a tiny BERT, corpora in Parquet and CSV, both runners."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before Ray or transformers is imported: Ray writes to HOME, and no test may use a hub.
os.environ["HOME"] = tempfile.mkdtemp(prefix="bertbatch-home-")
os.environ["HF_HUB_OFFLINE"] = "1"
# Before typer is imported, which would color what it prints into a pipe.
os.environ.pop("FORCE_COLOR", None)
os.environ.pop("GITHUB_ACTIONS", None)
os.environ.pop("PY_COLORS", None)

import pytest
import torch

from bertbatch import Result, run
from bertbatch.engines.linear_operators import OneDnnLinear
from tests.helpers.jobs import make_job
from tests.helpers.processors import PATCHED
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts

# Their assertions, too, say what was and what should have been.
pytest.register_assert_rewrite("tests.helpers.command_line", "tests.helpers.outputs")
torch.set_num_threads(1)  # tiny models: threads would only wait for each other


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-xdist sets it, and what is printed into a pipe would be wrapped."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def _no_handlers() -> None:
    """A command in this process leaves its log's handler, on a stream that is closed by now."""
    logging.getLogger("bertbatch").handlers.clear()


def _limit(name: str) -> None:
    """What a stand-in for a lesser processor cannot do: see tests/helpers/processors.py.

    Before any test is imported, since what a processor can do is asked once in a process.
    """
    lacking = ["_is_amx_tile_supported"]
    if name != "AVX512 without AMX":
        lacking.append("_is_avx512_bf16_supported")
    if name == "AVX512 without VNNI":
        lacking.append("_is_vnni_supported")
    for function in lacking:
        setattr(torch.cpu, function, lambda: False)
    if name == "no oneDNN":
        torch.backends.mkldnn.enabled = False
        setattr(OneDnnLinear, "__init__", _no_operator)  # noqa: B010


def _no_operator(*_: Any) -> None:
    raise AttributeError("this build of torch has no such operator")


if stand_in := os.environ.get(PATCHED):
    _limit(stand_in)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real BERT of two layers with random weights, on disk."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def ray_until_the_end() -> Iterator[None]:
    yield
    import ray

    ray.shutdown()


@pytest.fixture
def ray_here(ray_until_the_end: None) -> None:
    """One Ray for all tests of this process, but those that end it: starting it takes seconds."""
    import ray

    if not ray.is_initialized():
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            object_store_memory=200 << 20,
            # As a run's own: else each read after a pause starts a process anew.
            _system_config={"idle_worker_killing_time_threshold_ms": 600_000},
        )  # fmt: skip


@pytest.fixture(params=["inline", "ray"])
def runner(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_here")
    return str(request.param)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three Parquet sources, 600 rows in 8 row groups, with carried columns."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = make_texts(600)
    for i, (start, stop) in enumerate([(0, 100), (100, 250), (250, 600)]):
        write_parquet(folder / f"part-{i}.parquet", texts[start:stop], start, row_group_size=90)
    return folder


@pytest.fixture
def score(tiny_model: str) -> Callable[..., Result]:
    """Runs a job with the tiny model: score(input, output, runner=…, **{'input.carry': …})."""

    def go(input: Any, output: Any, runner: str = "inline", **keys: Any) -> Result:
        return run(make_job(tiny_model, input, output, runner, **keys))

    return go
