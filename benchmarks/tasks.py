"""Other tasks and models beside their libraries: `python -m benchmarks.tasks`.

From texts to answers, on one thread, in float32: entities and zero-shot labels beside
transformers' pipeline, as it is and fed with texts sorted by length; vectors beside
sentence-transformers' `encode`; DeBERTa beside transformers with texts sorted by length. Contenders
take turns in one process, each warm before it is timed. Weights are random.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.corpora import WORKLOADS, generated
from benchmarks.models import CACHE, MAX_LENGTH, PACKAGED
from benchmarks.report import Report

LABELS = ["politics", "sports", "science", "music"]
TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
TOGETHER = 32  # texts in a batch of the libraries
BUDGET = 1024  # tokens in a batch of sorted texts
ROWS = {"entities": 150, "zero_shot": 60, "vectors": 200, "deberta": 60}
SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12,
         "intermediate_size": 1536}  # fmt: skip
DEBERTA = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "pooler_hidden_size": 768,
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm",
    "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
    "max_relative_positions": -1, "type_vocab_size": 0, "max_position_embeddings": 512,
}  # fmt: skip
Score = Callable[[], Any]
OURS = "bertbatch"


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.tasks", description=__doc__)
    parser.add_argument("--task", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--workload", choices=WORKLOADS, default="mixed")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    report = Report("Tasks beside their libraries, on one thread")
    for task in given.task:
        texts = list(islice(generated(given.workload), ROWS[task]))
        contenders = CONTENDERS[task](texts)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for score in contenders.values():
            score()
        for turn in range(given.rounds):
            for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
                began = time.perf_counter()
                contenders[name]()
                seconds[name].append(time.perf_counter() - began)
                print(f"{turn + 1}/{given.rounds} {task} {name}: {seconds[name][-1]:.2f} s")
        rows = [_row(name, seconds, len(texts)) for name in contenders]
        heading = f"{task}: {len(texts)} {given.workload} texts, {given.rounds} rounds"
        report.table(heading, ("contender", "texts/s", f"{OURS} is so many times as fast"), rows)


def _row(name: str, seconds: dict[str, list[float]], texts: int) -> list[str]:
    ratios = [other / ours for other, ours in zip(seconds[name], seconds[OURS], strict=True)]
    spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return [name, f"{texts / median(seconds[name]):,.0f}", "" if name == OURS else spread]


def _entities(texts: list[str]) -> dict[str, Score]:
    import transformers

    folder = _folder("tagger", "BertForTokenClassification", id2label=dict(enumerate(TAGS)))
    tagger = transformers.pipeline("token-classification", folder, aggregation_strategy="simple")
    return {
        OURS: _ours(folder, texts),
        "pipeline": lambda: tagger(texts, batch_size=TOGETHER),
        "pipeline, sorted": lambda: tagger(sorted(texts, key=len), batch_size=TOGETHER),
    }


def _zero_shot(texts: list[str]) -> dict[str, Score]:
    import transformers

    names = {0: "contradiction", 1: "neutral", 2: "entailment"}
    classes = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    folder = _folder("entailing", "BertForSequenceClassification", **classes)
    judge = transformers.pipeline("zero-shot-classification", folder)
    return {
        OURS: _ours(folder, texts, task="zero_shot", candidate_labels=LABELS),
        "pipeline": lambda: judge(texts, LABELS, batch_size=TOGETHER),
        "pipeline, sorted": lambda: judge(sorted(texts, key=len), LABELS, batch_size=TOGETHER),
    }


def _vectors(texts: list[str]) -> dict[str, Score]:
    from sentence_transformers import SentenceTransformer

    folder = _folder("encoder", "BertModel")
    theirs = SentenceTransformer(folder, device="cpu")
    return {
        OURS: _ours(folder, texts),
        "sentence-transformers": lambda: theirs.encode(texts, batch_size=TOGETHER),
    }


def _deberta(texts: list[str]) -> dict[str, Score]:
    folder = _folder("deberta-base", "DebertaV2ForSequenceClassification", **DEBERTA)
    return {OURS: _ours(folder, texts), "transformers, sorted": _sorted(folder, texts)}


CONTENDERS: dict[str, Callable[[list[str]], dict[str, Score]]] = {
    "entities": _entities,
    "zero_shot": _zero_shot,
    "vectors": _vectors,
    "deberta": _deberta,
}


@cache
def _made(name: str, architecture: str) -> Path:
    return CACHE / "models" / f"{name}-{architecture}"


def _folder(name: str, architecture: str, **settings: Any) -> str:
    """A model of MiniLM's shape, DeBERTa of base's, with the packaged tokenizer."""
    import torch
    import transformers

    folder = _made(name, architecture)
    if not folder.is_dir():
        torch.manual_seed(0)
        kind = getattr(transformers, architecture)
        vocabulary = transformers.AutoTokenizer.from_pretrained(PACKAGED).vocab_size
        config = kind.config_class(vocab_size=vocabulary, **{**SHAPE, **settings})
        kind(config).save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(PACKAGED / file, folder)
    return str(folder)


def _ours(folder: str, texts: list[str], **keys: Any) -> Score:
    """Our engine with the task's answers, from texts on."""
    from dataclasses import replace

    from bertbatch.engines.engine import EngineOptions, load_engine
    from bertbatch.engines.probe_texts import make_probe
    from bertbatch.engines.scoring import score
    from bertbatch.job.model import Model
    from bertbatch.model.sequences import encode_rows
    from bertbatch.model.spec import check_model
    from bertbatch.model.tokenizer import Tokenizer
    from bertbatch.tasks.task import task_of

    settings = Model(name=folder, engine="torch", dtype="float32", **keys)
    spec = check_model(settings)
    tokenizer, task = Tokenizer(spec), task_of(spec)
    engine = load_engine(spec, EngineOptions(settings, "cpu", 1, expected_tokens=1 << 24))
    engine.settle(make_probe(tokenizer, spec.max_length))
    print(f"{folder}: {engine.batching} {engine.reason}")

    def once() -> Any:
        plain = spec.asked.plain
        tokens = tokenizer.encode(texts) if plain else encode_rows(tokenizer, spec.asked, texts)
        answers = score(engine, tokens, 0, len(tokens.lengths)).answers
        return task.columns(replace(answers, spans=tokens.spans, parts=tokens.parts))

    return once


def _sorted(folder: str, texts: list[str]) -> Score:
    """transformers' model, texts sorted by length, a token budget."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def once() -> list[Any]:
        ids = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"]
        ids.sort(key=len, reverse=True)
        answers = []
        while ids:
            count = max(BUDGET // len(ids[0]), 1)
            some, ids = ids[:count], ids[count:]
            made = tokenizer.pad({"input_ids": some}, return_tensors="pt")
            with torch.inference_mode():
                answers.append(model(**made).logits)
        return answers

    return once


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
