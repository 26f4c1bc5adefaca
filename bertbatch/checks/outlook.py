"""What is known of a job before it runs: its sources, its texts, its time, what to think about."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from bertbatch.checks.estimate import Estimate, estimate
from bertbatch.checks.forecast import (
    Elsewhere,
    Forecast,
    forecast,
    forecast_elsewhere,
    last_rate,
    measured_rate,
    tokens_left,
)
from bertbatch.checks.text_sample import Lengths, Sample, measure_lengths, read_sample
from bertbatch.errors import JobError
from bertbatch.model.tokenizer import UNKNOWN_SHARE, unknown_words
from bertbatch.runtime.notices import other_files
from bertbatch.runtime.preflight import Preflight
from bertbatch.runtime.source_changes import find_changes
from bertbatch.runtime.text_warnings import truncated_texts
from bertbatch.wording import counted

FEW_ROWS = 500  # in a part, on average: with MANY_PARTS of them, other programs are slowed down
MANY_PARTS = 10


@dataclass
class Outlook:
    """`lengths` are by model; `time` is on this machine, `elsewhere` on those that were named.

    `sampled` rows were selected by `input.where`, if there is one: `selected` is their share.
    """

    estimate: Estimate
    sampled: int
    selected: float | None
    lengths: dict[str, Lengths]
    time: Forecast | None = None
    elsewhere: Forecast | None = None
    advice: list[str] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        found = asdict(self)
        found["estimate"] |= {
            name: getattr(self.estimate, name) for name in ("rows_done", "rows_pending", "bytes")
        }
        return found


def look_ahead(
    preflight: Preflight, measure: bool = False, elsewhere: Elsewhere | None = None
) -> Outlook:
    """Reads a sample; with `measure`, loads the models and scores it. Writes nothing.

    Raises JobError for what a run of the job would be refused for.
    """
    changes = find_changes(preflight)
    if preflight.work():
        preflight.output.check_access()
    planned = estimate(preflight, changes)
    sample = read_sample(preflight)
    found = {model: measure_lengths(sample, spec) for model, spec in preflight.specs.items()}
    lengths = {model: one for model, one in found.items() if one is not None}
    selected = None if preflight.job.input.where is None else sample.selected
    outlook = Outlook(planned, sample.rows, selected, lengths)
    rate, basis = last_rate(preflight), "the last run here that scored"
    if measure:
        rate, basis = measured_rate(preflight, sample), "measured now, in one process"
    if len(lengths) == len(preflight.specs):
        tokens = tokens_left(list(lengths.values()), sample, planned.rows_pending)
        if rate:
            outlook.time = forecast(tokens, rate, basis)
        if elsewhere is not None:
            outlook.elsewhere = forecast_elsewhere(tokens, elsewhere)
    elif elsewhere is not None:
        raise JobError(
            "--device-rate: the lengths of the texts are not known, since the sample has none or "
            "the model has no tokenizer.json; leave it out"
        )
    outlook.advice += _advice(preflight, outlook, sample)
    return outlook


def _advice(preflight: Preflight, outlook: Outlook, sample: Sample) -> Iterator[str]:
    """What a careful colleague would say."""
    for model, one in outlook.lengths.items():
        spec, settings = preflight.specs[model], preflight.job.each_model[model]
        if one.unknown > UNKNOWN_SHARE:
            yield unknown_words(one.unknown, spec.name)
        if "long_text" not in settings.model_fields_set:
            pair = preflight.job.input.text_pair is not None
            yield from truncated_texts(model, one.truncated, spec.max_length, pair)
    if bad := sample.reasons:
        ((reason, _),) = bad.most_common(1)
        encoded = preflight.listing.format == "csv" and "is not valid" in reason
        hint = "; is input.csv.encoding right?" if encoded else ""
        yield (
            f"{bad.total():,} of {counted(sample.rows, 'sampled row')} would go to quarantine, "
            f"most of them since: {reason}{hint}"
        )
    if sample.carried_bytes > sample.text_bytes:
        times = sample.carried_bytes / max(sample.text_bytes, 1)
        yield (
            f"the carried columns are {times:.1f} times as large as the texts, and the output will "
            "be too; carry keys alone, and join"
        )
    planned = outlook.estimate
    units = planned.units_done + planned.units_pending
    rows = round((planned.rows_done + planned.rows_pending) * sample.selected)
    if units >= MANY_PARTS and rows < FEW_ROWS * units:
        yield (
            f"{counted(rows, 'row')} will be in {counted(units, 'file')}; `bertbatch export` makes "
            "few of them"
        )
    yield from other_files(preflight.output)
    if sum(planned.left_out.values()) > len(planned.sources):
        yield "more files are left out than are read; is input.path the right folder?"
