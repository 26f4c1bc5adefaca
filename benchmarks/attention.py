"""What attention statistics cost: time and memory of the forward pass with and without them.

Contenders take turns, each in a process of its own with one thread, as a worker has on a CPU.
Each loads the model, goes over the texts once to get warm, and once against the clock.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.compare import environment
from benchmarks.corpora import WORKLOADS, generated, stored
from benchmarks.models import ROOT, model_folder
from benchmarks.report import Report

ROWS = {"short": 600, "mixed": 150, "long": 40}
BERT_LARGE_ROWS = 4  # of 512 tokens
LARGE = "bert_large_with"
EXPECTED = 10**9  # tokens to score: operators are timed as in a large run
COLUMNS = (
    *("contender", "seconds", "tokens/s", "times bertbatch without", "times bertbatch with"),
    "MiB above the loaded model",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.attention", description=__doc__)
    parser.add_argument("--model", choices=("minilm", "bert-base"), default="minilm")
    parser.add_argument("--workload", choices=WORKLOADS, default="long")
    parser.add_argument("--data", type=Path, help="a folder of Parquet or CSV files instead")
    parser.add_argument("--text", default="text", help="their column")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--pairs", type=int, default=5)
    others = [name for name in CONTENDERS if name != LARGE]
    parser.add_argument("--against", choices=others, nargs="*", default=others)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = options.rows or ROWS[options.workload]
    texts = list(
        islice(
            stored(options.data, options.text) if options.data else generated(options.workload),
            rows,
        )
    )
    if options.one:
        print(json.dumps(timed(options.one, options.model, texts)))
        return
    report = Report("What attention statistics cost")
    names = list(dict.fromkeys(["without", "with", *options.against]))
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(options.pairs):
        for name in names if turn % 2 == 0 else reversed(names):
            found[name].append(one(name))
            print(f"{turn + 1}/{options.pairs} {name}: {found[name][-1]}", flush=True)
    table = []
    for name in names:
        ratios = []
        for base in ("without", "with"):
            both = zip(found[name], found[base], strict=True)
            ratios.append([run["seconds"] / other["seconds"] for run, other in both])
        seconds = median(run["seconds"] for run in found[name])
        table.append(
            [
                *(name, f"{seconds:.2f}"),
                f"{found[name][0]['tokens'] / seconds:,.0f}",
                *(f"{median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios),
                f"{median(run['mib'] for run in found[name]):,.0f}",
            ]
        )
    what = str(options.data.name) if options.data else options.workload
    heading = f"{what}, {options.model}, {rows} rows, one thread, {options.pairs} pairs"
    report.table(heading, COLUMNS, table)
    large = one(LARGE)
    report.lines(
        f"\n24 layers of 16 heads with statistics, {BERT_LARGE_ROWS} texts of 512 tokens: "
        f"{large['mib']:,.0f} MiB above the loaded model"
    )


def one(name: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.attention", *sys.argv[1:], "--one", name]
    settings = {**environment(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settings, check=True, stdout=subprocess.PIPE)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def timed(name: str, model: str, texts: list[str]) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    score, tokens = CONTENDERS[name](str(model_folder(model)), texts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    score()
    began = time.perf_counter()
    score()
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "tokens": tokens, "mib": (peak - before) / 1024}


Made = tuple[Callable[[], None], int]  # what scores all texts once, and their tokens


def ours(watch: bool, engine: str = "torch") -> Callable[[str, list[str]], Made]:
    def make(folder: str, texts: list[str]) -> Made:
        from bertbatch.engines.scoring import score

        loaded, tokens = loaded_engine(folder, texts, watch, engine)
        return lambda: void(score(loaded, tokens, 0, len(texts))), len(tokens.ids)

    return make


def loaded_engine(
    folder: str,
    texts: list[str],
    watch: bool = False,
    engine: str = "torch",
    dtype: str = "auto",
) -> tuple[Any, Any]:
    """One of our engines, on one thread, and the texts' tokens."""
    from bertbatch.engines.attention_stats import AttentionStats
    from bertbatch.engines.engine import EngineOptions, load_engine
    from bertbatch.engines.probe_texts import make_probe
    from bertbatch.job.model import Model
    from bertbatch.model.spec import check_model
    from bertbatch.model.token_kinds import token_classes
    from bertbatch.model.tokenizer import get_tokenizer
    from bertbatch.registry import DEFAULT_STATISTICS
    from bertbatch.statistics.statistic import make_statistics

    settings = Model(name=folder, engine=engine, dtype=dtype)
    spec = check_model(settings)
    tokenizer = get_tokenizer(spec)
    tokens = tokenizer.encode(texts)
    tokens.sampled[:] = watch
    statistics = make_statistics(DEFAULT_STATISTICS)
    classes = token_classes(tokenizer.python, statistics)
    made = AttentionStats(statistics, classes, "all", 1) if watch else None
    loaded = load_engine(spec, EngineOptions(settings, "cpu", 1, made, EXPECTED))
    loaded.settle(make_probe(tokenizer, spec.max_length))
    return loaded, tokens


def void(_: Any) -> None:
    """Drops an answer."""


def eager(whole: bool) -> Callable[[str, list[str]], Made]:
    """transformers' eager attention, whose weights come back: what one would write.

    The same statistics are made of each layer's weights as they come, or (`whole`) of what
    `output_attentions=True` returns for the batch. Batches are sorted, and precision and token
    budget are ours.
    """

    def make(folder: str, texts: list[str]) -> Made:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from bertbatch.engines.batching import padded_batches
        from bertbatch.engines.torch_engine import CPU_BUDGETS, fast_dtype

        dtype = fast_dtype("cpu")
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation="eager"
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer(texts, truncation=True, max_length=512)["input_ids"]
        lengths = np.array([len(row) for row in ids])
        punctuation = torch.zeros(len(tokenizer), dtype=torch.bool)
        punctuation[tokenizer.convert_tokens_to_ids(list(".,;:!?-'\"()"))] = True
        kept: list[Any] = []
        inputs: dict[str, Any] = {}

        def after_layer(module: Any, args: Any, output: Any) -> None:
            kept.append(reduced(output[1].float(), inputs, tokenizer, punctuation))

        if not whole:
            for layer in model.base_model.encoder.layer:
                layer.attention.self.register_forward_hook(after_layer)

        @torch.inference_mode()
        def score() -> None:
            for rows in padded_batches(lengths, CPU_BUDGETS[dtype][0]):
                padded = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
                inputs.clear()
                inputs.update(padded)
                kept.clear()
                answer = model(**padded, output_attentions=whole)
                for weights in answer.attentions if whole else ():
                    kept.append(reduced(weights.float(), inputs, tokenizer, punctuation))

        return score, int(lengths.sum())

    return make


def reduced(p: Any, inputs: dict[str, Any], tokenizer: Any, punctuation: Any) -> list[Any]:
    """The default statistics of weights [rows, heads, S, S] by their formulas: [rows, heads]"""
    import torch

    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    size = ids.shape[1]
    place = torch.arange(size)
    distance = (place[:, None] - place).abs().float()
    entropy = -torch.special.xlogy(p, p).sum(-1)
    of_queries = [
        entropy,
        entropy / mask.sum(-1).log()[:, None, None],
        p.amax(-1),
        p.square().sum(-1),
        (p * distance).sum(-1),
        *((p * of[:, None, None].float()).sum(-1) for of in (
            ids == tokenizer.cls_token_id, ids == tokenizer.sep_token_id, punctuation[ids]
        )),
    ]  # fmt: skip
    means = [(v * mask[:, None]).sum(-1) / mask.sum(-1, keepdim=True) for v in of_queries]
    for offset in (-1, 0, 1):
        beside = p.diagonal(offset, 2, 3)
        there = mask[:, max(offset, 0) :][:, : beside.shape[-1]] & mask[:, : beside.shape[-1]]
        means.append((beside * there[:, None]).sum(-1) / there.sum(-1, keepdim=True))
    return means


def bert_large(folder: str, texts: list[str]) -> Made:
    """24 layers of 16 heads, watched, over rows of 512 tokens: for its memory."""
    rows = [" ".join(["the"] * 600)] * BERT_LARGE_ROWS
    different = [f"{i} {row}" for i, row in enumerate(rows)]
    return ours(watch=True)(str(model_folder("bert-large")), different)


CONTENDERS: dict[str, Callable[[str, list[str]], Made]] = {
    "without": ours(watch=False),
    "with": ours(watch=True),
    "openvino_without": ours(watch=False, engine="openvino"),
    "eager_by_layer": eager(whole=False),
    "eager_output_attentions": eager(whole=True),
    LARGE: bert_large,
}


if __name__ == "__main__":
    main()
