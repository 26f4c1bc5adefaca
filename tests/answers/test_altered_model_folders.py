"""Odd model folders: the answers are transformers' own on that folder, or a sentence says why not.

Files are deleted, cut and altered, and every key of every JSON file is dropped or set to
something else. Nothing else than a JobError may come of it, and no weight may be made up.
"""

import copy
import gc
import json
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from bertbatch import JobError
from bertbatch.engines.engine import EngineOptions, load_engine
from bertbatch.engines.probe_texts import make_probe
from bertbatch.engines.scoring import score
from bertbatch.job.model import Model
from bertbatch.model.checkpoint import SIZE
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import Tokenizer
from tests.helpers.architectures import one_at_a_time
from tests.helpers.classifiers import save_like_bert, save_roberta
from tests.helpers.tiny import make_model, make_texts

TEXTS = [f"{text} it was [SEP] good, <s> wasn't it?" for text in make_texts(7, seed=9)]
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 1000, 10**30, 0.5, 1e-30, "", "1", "gelu", "none"),
    *([], {}, [1], {"0": "a"}, {"0": "a", "1": "b", "2": "c"}, "\ud800", "x" * 3000),
    *("regression", "multi_label_classification", "left", "flash_attention_2", "float16"),
]


def kinds(folder: Path) -> list[Path]:
    """Three folders with models of different kinds."""
    made = [folder / name for name in ("bert", "roberta", "distilbert")]
    make_model(made[0])
    save_roberta(made[1])
    save_like_bert(made[2], "distilbert")
    return made


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return kinds(tmp_path_factory.mktemp("originals"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key and index of a JSON value, some of each long list."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items)[:40]:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


def alter(folder: Path, rng: random.Random) -> str:
    """Changes one thing of a model's folder, as `rng` wants; what it was."""
    path = rng.choice(sorted(folder.iterdir()))
    way = rng.random()
    if way < 0.06:
        path.unlink()
        return f"{path.name} deleted"
    data = path.read_bytes()
    if way < 0.16:
        kept = rng.randrange(len(data))
        path.write_bytes(data[:kept])
        return f"{path.name} cut to {kept} bytes"
    if way < 0.26 or path.suffix != ".json":
        at, byte = rng.randrange(min(len(data), 4000)), rng.randrange(256)
        path.write_bytes(data[:at] + bytes([byte]) + data[at + 1 :])
        return f"{path.name}: byte {at} is {byte}"
    content = json.loads(data)
    where = rng.choice(list(places(content)))
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    old = copy.deepcopy(inner[where[-1]])
    if rng.random() < 0.3:
        del inner[where[-1]]
        new = "deleted"
    elif isinstance(old, int) and not isinstance(old, bool) and rng.random() < 0.6:
        inner[where[-1]] = new = rng.choice([old + 1, old - 1, 2 * old, old // 2])
    else:
        inner[where[-1]] = new = rng.choice(ODD)
    path.write_text(json.dumps(content))
    return f"{path.name}: {where} was {old!r}, is {new!r}"


def ours(folder: Path) -> tuple[np.ndarray, tuple[str, ...], int]:
    """The logits of the texts, the labels, and the tokens that they are cut to. Raises JobError."""
    spec = check_model(Model(name=str(folder), dtype="float32"))
    settings = Model(dtype="float32", tokens_per_batch=256)
    engine = load_engine(spec, EngineOptions(settings, "cpu", 1))
    tokenizer = Tokenizer(spec)
    engine.settle(make_probe(tokenizer, spec.max_length))
    logits = score(engine, tokenizer.encode(TEXTS), 0, len(TEXTS)).answers.values
    return logits, spec.labels, spec.max_length


def judge(folder: Path, what: str) -> str:
    """Fails if answers are not transformers' own; "refused" or "scored"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logits, labels, max_length = ours(folder)
        except JobError as error:
            said = str(error)
            return "refused" if said.startswith("model.") and len(said) < 1500 else said
        _, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
        )
        assert not info["missing_keys"], f"{what}: weights were made up"
        wanted = one_at_a_time(str(folder), TEXTS, max_length, "eager")
    off = float(np.abs(logits - wanted).max())
    assert off <= 1e-4 * max(float(np.abs(wanted).max()), 1e-3), f"{what}: off by {off}"
    assert len(labels) == wanted.shape[1], what
    return "scored"


def mutations(originals: list[Path], scratch: Path, seeds: range) -> dict[str, int]:
    """Alters a folder for each seed and judges it; how many ended in which way."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    ended = {"refused": 0, "scored": 0}
    for seed in seeds:
        rng = random.Random(seed)
        folder = scratch / "model"
        shutil.copytree(rng.choice(originals), folder)
        what = f"seed {seed}: {alter(folder, rng)}"
        try:
            ended[judge(folder, what)] += 1
        except AssertionError:
            raise
        except BaseException as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        shutil.rmtree(folder)
        # What was refused is in a circle with its error, whose models Python thinks are small.
        gc.collect()
    return ended


def test_altered_folders_agree_or_are_refused(originals, tmp_path):
    ended = mutations(originals, tmp_path, range(80))
    assert min(ended.values()) > 8  # neither is the rule


@pytest.mark.parametrize("value", [10**7, 10**12, 10**30, 10**400])
def test_sizes_that_the_weights_cannot_have_are_refused(value, originals, tmp_path):
    """Or a model of so many layers is built until the memory is full."""
    for number, original in enumerate(originals):
        config = json.loads((original / "config.json").read_text())
        sizes = [key for key in config if SIZE.search(key) and isinstance(config[key], int)]
        assert len(sizes) >= 5
        for key in sizes:
            folder = tmp_path / f"{number}-{key}"
            shutil.copytree(original, folder)
            (folder / "config.json").write_text(json.dumps({**config, key: value}))
            with pytest.raises(JobError, match=f"{key} in config.json is"):
                check_model(Model(name=str(folder)))


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(10))
def test_many_altered_folders_agree_or_are_refused(part, originals, tmp_path):
    mutations(originals, tmp_path, range(1000 + 200 * part, 1200 + 200 * part))
