"""The attention statistics of two corpora, compared for every head.

Rows are compared within ranges of lengths that both corpora have, because entropy and distances
rise with length whatever the text. Within a range the means differ by δ; over ranges, with
weights w = n₁n₂/(n₁+n₂), Δ = Σwδ/Σw. The effect size is Δ over the standard deviation within
ranges, pooled (Cohen's d: Cohen 1988). z = Δ/se(Δ) gives a two-sided p by the normal
distribution, and q is p adjusted for the number of comparisons so that flagging q ≤ 0.01
makes 1 % false discoveries (Benjamini & Hochberg 1995).
"""

import math
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.attention.aggregates import LENGTH
from bertbatch.attention.corpus import Corpus, attention_contract, read_corpus, which_model
from bertbatch.errors import JobError
from bertbatch.output.contract import stored_heads, stored_models
from bertbatch.output.folder import Output

FALSE_DISCOVERIES = 0.01


def compare_outputs(
    this: Output, other: Output, across_models: bool, model: str | None = None
) -> pa.Table:
    """One row for each statistic, layer and head, the largest effect first.

    `model`: whose statistics, of an output of several models.

    A difference is positive if `this` has the larger mean. Raises JobError if the two cannot be
    compared: different models (unless `across_models`), tokenizers or settings.
    """
    names = [_of_several(output, model) for output in (this, other)]
    mine, theirs = (_contract(o, name) for o, name in zip((this, other), names, strict=True))
    differing = [
        f"  {key}: {mine[key]!r} there, {theirs[key]!r} in the other"
        for key in mine
        if mine[key] != theirs[key] and not (across_models and key == "model.weights")
    ]
    if differing:
        listed = "\n".join(differing)
        hint = (
            "; --across-models compares models of one shape and tokenizer nevertheless"
            if [d for d in differing if d.startswith("  model.weights")] == differing
            else ""
        )
        raise JobError(
            f"{this.path} and {other.path} cannot be compared:\n{listed}\n"
            f"statistics of differently made runs differ whatever the texts are{hint}"
        )
    return compare(read_corpus(this, names[0]), read_corpus(other, names[1]))


def _of_several(output: Output, model: str | None) -> str | None:
    """The model that is meant of an output, if it is of several."""
    return model if "" not in stored_models(attention_contract(output)) else None


def compare(this: Corpus, other: Corpus) -> pa.Table:
    """As `compare_outputs`, for corpora of one shape. Raises JobError without common lengths."""
    lengths = [value for value in this.groups(LENGTH) if value in other.groups(LENGTH)]
    columns: dict[str, list[Any]] = {name: [] for name in ("statistic", "difference", "d", "z")}
    behind: list[np.ndarray] = []
    names = [name for name in this.tops if name in other.tops]
    for name in names:
        pairs = [
            (this.aggregate(key), other.aggregate(key))
            for key in ((LENGTH, value, name) for value in lengths)
            if key in this.keys and key in other.keys
        ]
        pairs = [(a, b) for a, b in pairs if min(a["rows"], b["rows"]) >= 2]
        if not pairs:
            continue
        difference, d, z = _stratified(pairs)
        columns["statistic"].append(name)
        columns["difference"].append(difference)
        columns["d"].append(d)
        columns["z"].append(z)
        behind.append(np.array([sum(pair[i]["rows"] for pair in pairs) for i in (0, 1)]))
    if not behind:
        raise JobError(
            "the two outputs have no range of text lengths in common with at least two rows in "
            "each: compare corpora of similar lengths"
        )
    width = this.layers * this.heads
    z = np.concatenate(columns["z"])
    d = np.concatenate(columns["d"])
    p = np.array([math.erfc(abs(value) / math.sqrt(2)) for value in z])
    head = np.tile(np.arange(width, dtype=np.int32), len(behind))
    counts = np.repeat(np.array(behind, np.int64), width, axis=0)
    table = pa.table(
        {
            "statistic": np.repeat(columns["statistic"], width).tolist(),
            "layer": head // this.heads + 1,
            "head": head % this.heads + 1,
            "difference": np.concatenate(columns["difference"]),
            "effect_size": d,
            "z": z,
            "p": p,
            "q": adjusted(p),
            "rows": counts[:, 0],
            "rows_other": counts[:, 1],
        }
    )
    return table.take(np.argsort(-np.abs(d), kind="stable"))


def adjusted(p: np.ndarray) -> np.ndarray:
    """Benjamini & Hochberg's step-up: the least p_(i) · m / i from each place upwards."""
    order = np.argsort(-p)
    ranks = np.arange(len(p), 0, -1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(np.minimum(p[order] * len(p) / ranks, 1))
    return q


def _stratified(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Δ, Cohen's d and z of every head, over pairs of aggregates."""
    shape = pairs[0][0]["mean"].shape
    weight, free = 0.0, 0.0
    difference, variance, squares = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for a, b in pairs:
        na, nb = a["rows"], b["rows"]
        w = na * nb / (na + nb)
        weight += w
        difference += w * (a["mean"] - b["mean"])
        of_means = a["m2"] / (na - 1) / na + b["m2"] / (nb - 1) / nb
        variance += w * w * of_means
        squares += a["m2"] + b["m2"]
        free += na + nb - 2
    difference /= weight
    return (
        difference,
        _ratio(difference, np.sqrt(squares / free)),
        _ratio(difference, np.sqrt(variance) / weight),
    )


def _ratio(difference: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """difference / spread; without spread, zero for no difference and else infinite."""
    safe = np.where(spread > 0, spread, 1)
    certain = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    return np.where(spread > 0, difference / safe, certain)


def _contract(output: Output, name: str | None) -> dict[str, Any]:
    """What must be equal for two outputs to be compared."""
    contract = attention_contract(output)
    name = which_model(output, contract, name)
    model, found = stored_models(contract)[name], stored_heads(contract, name)
    return {
        **{f"model.{key}": model[key] for key in ("weights", "tokenizer", "quantization")},
        "model.max_length": model["max_length"],
        "attention.queries": contract["attention"]["queries"],
        "layers": found["layers"],
        "heads": found["heads"],
    }
