"""One look at all committed rows: what the sections of a report count.

Parts are read one after the other, so that memory does not grow with the output.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.attention.sample import sampled
from bertbatch.checks.answers import Answers, read_parts
from bertbatch.job.carry import OUTPUT_COLUMNS
from bertbatch.job.models import column_of
from bertbatch.output.contract import stored_models
from bertbatch.output.part import accounted
from bertbatch.report.grouping import Groups, groups_of
from bertbatch.report.top import Top

SCORES = 40  # bins of a histogram of scores
LENGTHS = 20_000  # tokens, from which on texts count as equally long
SAMPLE = 200_000  # numbers of which a distribution is drawn; of more rows about so many
SHOWN_ROWS = 8  # of each kind of extreme row
TYPICAL_LABELS = 8  # labels whose most typical rows are kept
TEXT = 400  # characters that are kept of a text
MADE = (*OUTPUT_COLUMNS, "embedding", "entities", "windows", "window")


@dataclass
class Scan:
    """What was counted; `damaged` names parts that cannot be read, with the reason.

    `scores` int64 [bins] by label, of scores from 0 to 1; `tokens` int64 [length + 1] are rows by
    their length; `numbers`: a sample of answers that are numbers. `side_files` name the
    quarantine files; `wrong` are parts whose counts do not add up.
    """

    rows: int = 0
    quarantined: int = 0
    left_out: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    odd_scores: int = 0  # that are no shares
    numbers: list[np.ndarray] = field(default_factory=list)
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    truncated: int = 0
    unknown: np.ndarray = field(default_factory=lambda: np.zeros(20, np.int64))
    unknown_rows: int = 0
    unknown_sum: float = 0.0
    groups: list[Groups] = field(default_factory=list)
    tops: dict[str, Top] = field(default_factory=dict)
    typical: dict[str, Top] = field(default_factory=dict)
    side_files: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def top(self, name: str) -> Top:
        return self.tops.setdefault(name, Top(SHOWN_ROWS))


def carried_columns(answers: Answers) -> list[str]:
    """The columns of an output that come from its input."""
    made = {"source", "row"}
    models = stored_models(answers.contract)
    made |= {column_of(model, name) for model in models for name in MADE}
    starts = tuple(column_of(model, "attn_") for model in models)
    return [n for n in answers.schema.names if n not in made and not n.startswith(starts)]


def text_column(answers: Answers) -> str | None:
    """The carried column that has the scored text, if there is one."""
    given = answers.contract.get("input") or {}
    carried = given.get("carry")
    if not isinstance(carried, dict):
        return None
    names = [name for name, column in carried.items() if column == given.get("text")]
    for name in names:
        kind = answers.schema.field(name).type if name in answers.schema.names else None
        if kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            return str(name)
    return None


def scan(answers: Answers, parts: Sequence[str], rows: int) -> Scan:
    """Reads every part; `rows`: about how many rows they have."""
    found = Scan()
    text = text_column(answers)
    carried = [name for name in carried_columns(answers) if name != text]
    columns = _columns(answers, carried, text)
    share = min(1.0, SAMPLE / max(rows, 1))
    first = True
    for part, footer, table in read_parts(answers.output, parts, columns, found.damaged):
        scored, quarantined, left_out = accounted(footer)
        found.quarantined += quarantined
        found.left_out += left_out
        if scored != table.num_rows:
            found.wrong.append(f"{part}: says {scored:,} rows and has {table.num_rows:,}")
        if path := footer["side_files"].get("quarantine"):
            found.side_files[part] = path
        if not table.num_rows:
            continue
        if first:
            found.groups = groups_of(answers.schema, carried, table)
            first = False
        _count(found, answers, table.combine_chunks(), text, share)
    return found


def _columns(answers: Answers, carried: list[str], text: str | None) -> list[str]:
    wanted = [
        "source",
        "row",
        *(n for n in carried if not pa.types.is_nested(answers.schema.field(n).type)),
    ]
    wanted += [text] if text else []
    names = {
        "single_label": ("label", "score"),
        "multi_label": ("labels",),
        "regression": (),
        "embedding": (),
        "token_classification": ("entities",),
    }[answers.kind]
    wanted += [answers.name(n) for n in (*names, "n_tokens", "truncated", "unk_share")]
    wanted += [answers.number] if answers.kind == "regression" else []
    return [name for name in wanted if name in answers.schema.names]


def _count(found: Scan, answers: Answers, table: pa.Table, text: str | None, share: float) -> None:
    rows = table.num_rows
    found.rows += rows
    labelled = _labelled(answers, table)
    numbers = None
    if labelled is not None:
        for item in pc.value_counts(labelled[1]).to_pylist():
            found.labels[item["values"]] += item["counts"]
    if answers.kind == "regression" and answers.number in table.column_names:
        numbers = table[answers.number].combine_chunks()
        chosen = _sampled(table, share)
        found.numbers.append(numbers.to_numpy(zero_copy_only=False)[chosen].astype(np.float64))
    for groups in found.groups:
        groups.add(table[groups.column].combine_chunks(), labelled, numbers)
    _count_lengths(found, answers, table)
    shown = _shown(answers, table, text)
    _offer_extremes(found, answers, table, shown)
    score = answers.name("score")
    if answers.kind == "single_label" and score in table.column_names:
        _count_scores(found, answers, table, shown)


def _labelled(answers: Answers, table: pa.Table) -> tuple[pa.Array, pa.Array] | None:
    """Rows' places and their labels as text; several of a row, or none."""
    for name in ("label", "labels", "entities"):
        column = answers.name(name)
        if column not in table.column_names:
            continue
        array = table[column].combine_chunks()
        if name == "label":
            labels = array.cast(pa.string())
            there = labels.is_valid()
            return pa.array(np.flatnonzero(there.to_numpy(zero_copy_only=False))), labels.filter(
                there
            )
        inner = array.flatten()
        labels = inner.field("label") if name == "entities" else inner
        return pc.list_parent_indices(array), labels.cast(pa.string())
    return None


def _count_lengths(found: Scan, answers: Answers, table: pa.Table) -> None:
    if (name := answers.name("n_tokens")) in table.column_names:
        lengths = np.minimum(table[name].to_numpy(), LENGTHS)
        counts = np.bincount(lengths, minlength=len(found.tokens))
        counts[: len(found.tokens)] += found.tokens
        found.tokens = counts
    if (name := answers.name("truncated")) in table.column_names:
        found.truncated += int(pc.sum(table[name]).as_py() or 0)
    if (name := answers.name("unk_share")) in table.column_names:
        shares = table[name].to_numpy().astype(np.float64)
        found.unknown += np.histogram(shares, len(found.unknown), (0, 1))[0]
        found.unknown_rows += int((shares > 0).sum())
        found.unknown_sum += float(shares.sum())


def _count_scores(found: Scan, answers: Answers, table: pa.Table, shown: pa.Table) -> None:
    scores = table[answers.name("score")].to_numpy().astype(np.float64)
    found.odd_scores += int(((scores < 0) | (scores > 1)).sum())
    found.top("least certain").offer(-scores, shown)
    if answers.name("label") not in table.column_names:
        return
    labels = table[answers.name("label")].cast(pa.string()).combine_chunks()
    for label in pc.unique(labels.drop_null()).to_pylist():
        member = pc.fill_null(pc.equal(labels, label), False).to_numpy(zero_copy_only=False)
        counts = np.histogram(scores[member], SCORES, (0, 1))[0]
        found.scores[label] = found.scores.get(label, 0) + counts
        if label in found.typical or len(found.typical) < TYPICAL_LABELS:
            found.typical.setdefault(label, Top(2)).offer(scores, shown, member)


def _offer_extremes(found: Scan, answers: Answers, table: pa.Table, shown: pa.Table) -> None:
    if (name := answers.name("n_tokens")) in table.column_names:
        found.top("longest").offer(table[name].to_numpy().astype(np.float64), shown)
    if (name := answers.name("unk_share")) in table.column_names:
        unknown = table[name].to_numpy().astype(np.float64)
        found.top("most unknown tokens").offer(unknown, shown, unknown > 0)
    if answers.kind == "regression" and answers.number in table.column_names:
        values = table[answers.number].to_numpy().astype(np.float64)
        found.top("largest").offer(values, shown)
        found.top("smallest").offer(-values, shown)


def _shown(answers: Answers, table: pa.Table, text: str | None) -> pa.Table:
    """The columns of extreme rows that are shown, under names of their own."""
    names = {"source": "source", "row": "row"}
    for name in ("label", "labels", "score", "n_tokens", "unk_share"):
        names[name] = answers.name(name)
    if answers.kind == "regression":
        names["value"] = answers.number
    columns: dict[str, Any] = {
        name: table[column] for name, column in names.items() if column in table.column_names
    }
    if text:
        columns["text"] = pc.utf8_slice_codeunits(table[text], 0, TEXT)
    return pa.table(columns)


def _sampled(table: pa.Table, share: float) -> np.ndarray:
    sources = table["source"].cast(pa.string()).combine_chunks().dictionary_encode()
    rows = table["row"].to_numpy()
    return sampled(sources.dictionary.to_pylist(), sources.indices.to_numpy(), rows, share)
