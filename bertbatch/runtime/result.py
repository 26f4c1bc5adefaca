"""The totals of a run, the listeners that receive them, the result."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from bertbatch.attention.aggregates import ALL
from bertbatch.attention.corpus import read_corpus
from bertbatch.errors import JobError
from bertbatch.output.folder import Output, open_output
from bertbatch.runtime.counts import Counts, label_shares
from bertbatch.units import Unit
from bertbatch.wording import counted, left_out

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Totals(Counts):
    """What a run has done so far, beside what it found planned and done."""

    units: int = 0
    units_before: int = 0
    rows_before: int = 0
    units_planned: int = 0  # in the whole output
    rows_planned: int = 0
    new: Counts = field(default_factory=Counts)  # of rows that had not been in quarantine before
    texts_once: int = 0  # scored for several units
    bottleneck: str = ""  # what the run waits for now

    @property
    def rows_again(self) -> int:
        """Of `rows`, those that had been in quarantine."""
        return self.rows - self.new.rows

    @property
    def record(self) -> dict[str, Any]:
        again = self.rows_quarantined - self.new.rows_quarantined
        record = {**super().record, "rows_again": self.rows_again, "quarantined_again": again}
        del record["new"]
        return record

    @property
    def label_shares(self) -> dict[str, float]:
        """Each label's share of the rows that this run scored."""
        return label_shares(self.labels, self.rows_scored)

    def progress(self, seconds: float) -> dict[str, Any]:
        """How far the output is, after so many seconds of scoring in this run."""
        rate = self.rows / max(seconds, 1e-9)
        done = self.rows_before + self.new.rows  # rows that are scored again count once
        left = self.rows_planned - done
        return {
            "units": self.units_before + self.units,
            "units_planned": self.units_planned,
            "rows": done,
            "rows_planned": self.rows_planned,
            "rows_per_second": round(rate, 1),
            "tokens_per_second": round(self.tokens / max(seconds, 1e-9)),
            "quarantined": self.rows_quarantined,
            "bottleneck": self.bottleneck,
            "eta_seconds": round(left / rate) if rate else None,
        }


class ProgressListener:
    """Is told what a run does; this one does nothing with it."""

    def began(self, run: str) -> None: ...

    def started(self, totals: Totals, workers: int, kinds: dict[str, dict[str, Any]]) -> None: ...

    def progressed(self, totals: Totals, unit: Unit | None = None) -> None: ...

    def finished(self, result: "Result") -> None: ...

    def close(self) -> None: ...


@dataclass(repr=False)
class Result:
    """How a run ended. `totals` is what `_SUCCESS.json` holds when the run succeeds.

    exit_code: 0 all is committed, 3 something failed or too much is in quarantine, 4 all is
    committed but an alarm of the job went off, 130 after Ctrl-C, 143 after SIGTERM.
    """

    exit_code: int
    totals: dict[str, Any]
    run: Totals
    failed_sources: dict[str, str]
    failed_units: dict[str, str]
    output: Output
    advice: str = ""
    alarms: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"<Result {self._in_words}>"

    def _repr_html_(self) -> str:
        """As a notebook shows it."""
        return f"<p><b>Result</b> {html.escape(self._in_words)}</p>"

    @property
    def _in_words(self) -> str:
        totals = self.totals
        return (
            f"{self.output.path}: exit code {self.exit_code}, "
            f"{counted(totals['rows_in'], 'row')} in = "
            f"{totals['rows_scored']:,} scored + {totals['rows_quarantined']:,} quarantined"
            f"{left_out(totals['rows_left_out'], ' +')}"
        )

    def to_pandas(self) -> "pd.DataFrame":
        """All predictions of the output, ordered by source and row."""
        import pyarrow.dataset as ds  # which imports pandas: a third of a run's own imports

        parts = sorted(self.output.committed().values())
        if not parts:
            reasons = "".join(f"; {id_}: {why}" for id_, why in self.failed_sources.items())
            raise JobError(f"{self.output.path} holds no predictions yet{reasons[:1000]}")

        data = ds.dataset([self.output.at(part) for part in parts], filesystem=self.output.store.fs)
        table: pd.DataFrame = data.to_table().to_pandas()
        by_name = table.assign(source=table["source"].astype(str))
        return table.loc[by_name.sort_values(["source", "row"]).index].reset_index(drop=True)


def load_attention(
    output: str,
    group: str = ALL,
    value: Any = "",
    storage_options: dict[str, Any] | None = None,
    model: str | None = None,
) -> "pd.DataFrame":
    """An output's corpus statistics, indexed by layer, head (from 1) and statistic.

    `group` and `value` choose whose: ("all", ""), ("label", "positive"), ("length", "33-64")
    or ("column", …), for which the name of the column in `attention.group_by` may stand; `model` is
    what its columns begin with, if there are several. Raises JobError if the output has no such
    statistics.
    """
    corpus = read_corpus(open_output(output, storage_options), model)
    tidy = corpus.tidy()
    try:  # a column's values are kept as text, a number's or a day's as Arrow has it
        value = value if isinstance(value, str) else pa.scalar(value).cast(pa.string()).as_py()
    except (pa.ArrowException, TypeError) as error:
        raise JobError(f"value {value!r} is not a value that a group can have: {error}") from error
    if not isinstance(group, str):
        raise JobError(f"group {group!r} is not a name: use 'all', 'label', 'length' or a column's")
    kind = corpus.kind(group)
    chosen = tidy.filter((pc.field("group") == kind) & (pc.field("value") == value))
    if not chosen.num_rows:
        groups = sorted({*zip(tidy["group"].to_pylist(), tidy["value"].to_pylist(), strict=True)})
        by = f"; 'column' is '{corpus.grouped_by}'" if corpus.grouped_by else ""
        raise JobError(f"{output} has no group ({group!r}, {value!r}); it has {groups}{by}")
    frame: pd.DataFrame = chosen.drop_columns(["group", "value"]).to_pandas()
    return frame.set_index(["layer", "head", "statistic"]).sort_index()
