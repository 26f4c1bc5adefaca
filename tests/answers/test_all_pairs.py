"""Tasks, architectures, tokenizers and paths together: the answers are transformers' own.

Each job scores texts in eight scripts. `make test` has every pair of values, `make test-sweeps`
the whole product, where each value of a setting meets all values of the others.
"""

import itertools
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers

from bertbatch import Result, run
from tests.helpers.architectures import tiny_config
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions
from tests.helpers.sources import write_parquet
from tests.helpers.taggers import TAGS, TEXTS, TOKENIZERS, more_texts, save_tagger

FACTORS = {
    "task": [
        *("single_label", "multi_label", "regression", "cross_encoder", "embedding"),
        *("token_classification", "zero_shot"),
    ],
    # The first are packed by transformers' interface, two by an attention of ours, one is padded.
    "kind": [
        *("bert", "roberta", "distilbert", "electra", "albert", "modernbert"),
        *("deberta-v2", "mpnet", "deberta"),
    ],
    "tokenizer": TOKENIZERS,
    "engine": ["torch", "openvino"],
    "runner": ["inline", "ray"],
    "long_text": ["truncate", "windows", "head_tail"],
}
LENGTH, STRIDE = 24, 6
LABELS = ["music", "news 2"]
TEMPLATE = "About {}."
PAIRS = [*TEXTS[1:], TEXTS[0]]
NLI = ["other", "entailment"]
NAMES = {
    **{"single_label": list("abc"), "multi_label": list("abc"), "regression": list("ab")},
    **{"cross_encoder": ["a"], "zero_shot": NLI, "token_classification": TAGS},
}
KEYS = ("input_ids", "token_type_ids")
AUTO = {
    "token_classification": "AutoModelForTokenClassification",
    "embedding": "AutoModel",
}


def valid(case: dict[str, str]) -> bool:
    """Whether a job takes these together, and transformers has an answer of its own."""
    task, long_text = case["task"], case["long_text"]
    if long_text != "truncate" and task in ("cross_encoder", "zero_shot"):
        return False  # refused: a test of each says so
    # transformers' pipeline has no such way
    return not (long_text == "head_tail" and task == "token_classification")


def product() -> list[dict[str, str]]:
    values = itertools.product(*FACTORS.values())
    return [case for v in values if valid(case := dict(zip(FACTORS, v, strict=True)))]


def pairs_of(case: dict[str, str]) -> set[tuple[tuple[str, str], tuple[str, str]]]:
    return set(itertools.combinations(case.items(), 2))


@cache
def every_pair() -> list[dict[str, str]]:
    """Few cases that have every pair of values which some valid case has: greedily."""
    cases = product()
    random.Random(0).shuffle(cases)
    left = set().union(*map(pairs_of, cases))
    chosen = []
    while left:
        some = cases[:: max(len(cases) // 400, 1)]
        best = max(some, key=lambda case: len(pairs_of(case) & left))
        if not pairs_of(best) & left:
            best = next(case for case in cases if pairs_of(case) & left)
        chosen.append(best)
        left -= pairs_of(best)
    return chosen


def name(case: dict[str, str]) -> str:
    return "-".join(case.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.fixture(scope="module")
def source(folder) -> Path:
    texts = [*TEXTS, *more_texts(10, seed=4)]
    second = [PAIRS[i % len(PAIRS)] for i in range(len(texts))]
    write_parquet(folder / "in.parquet", texts)
    table = pq.read_table(folder / "in.parquet").append_column("second", pa.array(second))
    pq.write_table(table, folder / "in.parquet")
    return folder / "in.parquet"


def model_of(folder: Path, case: dict[str, str]) -> str:
    """The model of a case, made once."""
    task, kind, tokenizer = (case[key] for key in ("task", "kind", "tokenizer"))
    target = folder / f"{task}-{kind}-{tokenizer}"
    if target.is_dir():
        return str(target)
    save_tagger(target, tokenizer)
    made = transformers.AutoTokenizer.from_pretrained(target)
    config = tiny_config(kind)
    config.vocab_size, config.pad_token_id = len(made), made.pad_token_id
    config.problem_type = None
    if task == "multi_label":
        config.problem_type = "multi_label_classification"
    labels = NAMES.get(task, ["a"])
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    torch.manual_seed(7)
    auto = AUTO.get(task, "AutoModelForSequenceClassification")
    model = getattr(transformers, auto).from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(target)
    return str(target)


def sequences(tokenizer: Any, text: str, pair: str | None, long_text: str) -> list[list[int]]:
    """A text's sequences as transformers' tokenizer makes them."""
    cut: dict[str, Any] = {"truncation": True, "max_length": LENGTH}
    if long_text == "windows":
        cut |= {"stride": STRIDE, "return_overflowing_tokens": True}
        return list(tokenizer(text, **cut)["input_ids"])
    if long_text == "head_tail":
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        room = LENGTH - 2
        if len(ids) > room:
            ids = ids[: room // 4] + ids[-(room - room // 4) :]
        return [[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]]
    return [tokenizer(text, pair, **cut)["input_ids"]]


@torch.inference_mode()
def expected(case: dict[str, str], model_name: str, rows: list[dict[str, Any]]) -> Any:
    """Each row's numbers by transformers, one sequence at a time, or its entities."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_name)
    auto = AUTO.get(case["task"], "AutoModelForSequenceClassification")
    model = getattr(transformers, auto).from_pretrained(model_name).eval()
    if case["task"] == "token_classification":
        stride = {"stride": STRIDE} if case["long_text"] == "windows" else {}
        tokenizer.model_max_length = LENGTH
        pipe = transformers.pipeline(
            "token-classification", model, tokenizer=tokenizer, aggregation_strategy="simple",
            **stride,
        )  # fmt: skip
        return [[(e["entity_group"], e["start"], e["end"]) for e in pipe(r["text"])] for r in rows]

    def values(ids: list[int], types: list[int] | None = None) -> torch.Tensor:
        given = {"input_ids": torch.tensor([ids])}
        if types and getattr(model.config, "type_vocab_size", 0) > 1:
            given["token_type_ids"] = torch.tensor([types])
        out = model(**given)
        found = out.last_hidden_state.mean(1) if case["task"] == "embedding" else out.logits
        return found[0]

    answers = []
    for row in rows:
        if case["task"] in ("zero_shot", "cross_encoder"):
            seconds = [row["second"]]
            cut = {"truncation": True, "max_length": LENGTH}
            if case["task"] == "zero_shot":
                seconds = [TEMPLATE.format(label) for label in LABELS]
                cut["truncation"] = "only_first"
            # In lists: of a single empty text transformers makes no pair.
            made = [tokenizer([row["text"]], [second], **cut) for second in seconds]
            found = torch.stack([values(*(m[key][0] for key in KEYS if key in m)) for m in made])
            if case["task"] == "zero_shot":
                answers.append(found[:, NLI.index("entailment")].softmax(0))
            else:
                answers.append(found[0].sigmoid())
            continue
        windows = sequences(tokenizer, row["text"], None, case["long_text"])
        mean = torch.stack([values(ids) for ids in windows]).mean(0)
        by = {"single_label": lambda x: x.softmax(0), "multi_label": torch.sigmoid}
        answers.append(by.get(case["task"], lambda x: x)(mean))
    return torch.stack(answers).numpy()


COLUMNS = {"regression": "values", "cross_encoder": "score", "embedding": "embedding"}


def check(case: dict[str, str], folder: Path, source: Path, out: Path, **more: Any) -> Result:
    model_name = model_of(folder, case)
    keys: dict[str, Any] = {"model.task": case["task"], "model.max_length": LENGTH}
    keys |= {"model.engine": case["engine"], "input.carry": ["text", "second"]}
    if case["long_text"] != "truncate":
        keys["model.long_text"] = case["long_text"]
        keys |= {"model.stride": STRIDE} if case["long_text"] == "windows" else {}
    if case["task"] == "zero_shot":
        keys |= {"model.candidate_labels": LABELS, "model.hypothesis_template": TEMPLATE}
    if case["task"] == "cross_encoder":
        keys["input.text_pair"] = "second"
    result = run(make_job(model_name, source, out, case["runner"], **keys, **more))
    assert (result.exit_code, result.run.rows_quarantined) == (0, 0)
    table = predictions(out)
    wanted = expected(case, model_name, table.to_pylist())
    if case["task"] == "token_classification":
        rows = table["entities"].to_pylist()
        assert [[(e["label"], e["start"], e["end"]) for e in row] for row in rows] == wanted
        return result
    got = np.array(table[COLUMNS.get(case["task"], "scores")].to_pylist(), np.float64)
    got = got.reshape(wanted.shape)
    assert np.ptp(wanted, axis=0).max() > 0.01  # texts differ
    np.testing.assert_allclose(got, wanted, atol=2e-4 * max(np.abs(wanted).max(), 1))
    return result


@pytest.mark.parametrize("case", every_pair(), ids=name)
def test_every_pair_of_values(case, folder, source, tmp_path, request):
    if case["runner"] == "ray":
        request.getfixturevalue("ray_here")
    check(case, folder, source, tmp_path / "out")


@pytest.mark.sweep
@pytest.mark.parametrize("case", product(), ids=name)
def test_the_whole_product(case, folder, source, tmp_path, request):
    if case["runner"] == "ray":
        request.getfixturevalue("ray_here")
    check(case, folder, source, tmp_path / "out")


@pytest.mark.parametrize("task", FACTORS["task"])
def test_repeated_texts_have_the_answers_of_their_task(task, folder, source, tmp_path):
    long_text = "truncate" if task in ("cross_encoder", "zero_shot") else "windows"
    values = (task, "bert", "wordpiece", "torch", "inline", long_text)
    case = dict(zip(FACTORS, values, strict=True))
    table = pq.read_table(source)
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "twice.parquet")
    more = {"input.dedupe": "corpus", "runtime.unit_rows": 5}
    result = check(case, folder, tmp_path / "twice.parquet", tmp_path / "out", **more)
    assert result.run.rows_repeated == 2 * table.num_rows
    assert result.run.texts_once == table.num_rows


def test_every_pair_is_there():
    assert len(every_pair()) < 120
    assert set().union(*map(pairs_of, every_pair())) == set().union(*map(pairs_of, product()))
