"""What `import bertbatch` gives to run jobs, also in notebooks."""

import re
import sys
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from bertbatch.errors import Alarm, JobError, RunError
from bertbatch.inputs.in_memory import as_table
from bertbatch.job.schema import Job
from bertbatch.runtime import run as runs
from bertbatch.runtime.result import ProgressListener, Result, load_attention

if TYPE_CHECKING:
    import pandas as pd

OWN = {  # keys of a job that `score` sets, and where they come from
    **dict.fromkeys(("input.path", "input.format"), "what is read is `data`"),
    "output.path": "no files are written; run a job for that",
    **{"input.text": "give it as `text`", "input.text_pair": "give it as `text_pair`"},
    **dict.fromkeys(("model.name", "models"), "give one model as `model`"),
    "runtime.runner": "all is done in this process; run a job for another",
}
LEFT_OUT = "left out by input.where or input.limit"
REWORDED = (
    (r" \(choose one with --\S+ or input\.(text_pair|text)\)", r"; name one of these as \1"),
    (r", such as by --candidate-labels a,b", " in settings"),
    (r"\binput\.(text_pair|text)\b", r"\1"),
    (r"\bmodel\.name\b", "model"),
)


def run(job: Job, listener: ProgressListener | None = None, verbose: bool = False) -> Result:
    """Runs a job to its end; the same job again resumes, or scores only what is new.

    In a notebook progress is told by plain lines, unless a listener is given. Raises JobError if
    the job cannot start, Alarm if its input is empty and it says that this is one; nothing is
    written then.
    """
    if listener is None and _in_notebook():
        from bertbatch.display.progress import notebook_listener

        listener = notebook_listener()
    return runs.run(job, listener, verbose)


def score(
    data: Any,
    model: str = "sentiment-mini",
    text: str = "text",
    *,
    text_pair: str | None = None,
    attention: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> "Scores":
    """Scores texts in this process, without files: the answers are those of a job.

    `data` is a pandas or Polars DataFrame or Series, an Arrow table, or a list of texts; `text` and
    `text_pair` name its columns. `settings` has other keys of a job, such as
    {"model.max_length": 256}. Meant for tens of thousands of rows: all are in memory. Raises
    JobError if the job cannot start, RunError if it cannot go on.
    """
    for name, value in {"text": text, "text_pair": text_pair, "model": model}.items():
        if not isinstance(value, str) and (name, value) != ("text_pair", None):
            raise JobError(f"{name} must be text; found {value!r:.40}")
    if not isinstance(settings, Mapping | None):
        raise JobError(
            f"settings is {type(settings).__name__}: give a dict of keys of a job with their "
            "values, such as {'model.max_length': 256}"
        )
    table, index = as_table(data, [text, *([text_pair] if text_pair is not None else [])])
    folder = f"memory://bertbatch-{uuid.uuid4().hex}"
    keys: dict[str, Any] = {
        "input": {
            "path": f"{folder}/in/data",
            "format": "parquet",
            "text": text,
            "text_pair": text_pair,
        },
        "output": {"path": f"{folder}/out"},
        "model": {"name": model},
        "runtime": {"runner": "inline"},
        "limits": {"max_quarantined": 1},
        **({"attention": {}} if attention else {}),
    }
    for key, value in (settings or {}).items():
        _set(keys, key, value)
    store = fsspec.filesystem("memory")
    try:
        with store.open(f"{folder}/in/data", "wb") as file:
            pq.write_table(table, file)
        with _in_terms_of_the_call():
            job = Job.build(keys, "settings")
            result = runs.run(job)
            if result.failed_sources or result.failed_units:
                why = (*result.failed_sources.values(), *result.failed_units.values())
                raise RunError("; ".join(why))
            schema = None if result.output.committed() else runs.preflight(job).schema
            return Scores(result, table.num_rows, index, schema)
    except pa.ArrowNotImplementedError as error:
        raise JobError(f"data has a column of a type that cannot be stored: {error}") from None
    except BaseException:
        _free(f"{folder}/out")
        raise
    finally:
        _free(f"{folder}/in")


def _set(keys: dict[str, Any], key: Any, value: Any) -> None:
    """A key of a job, as `--set` names it, with a value of its own type. Raises JobError."""
    if key in OWN:
        raise JobError(f"settings: '{key}' cannot be set: {OWN[key]}")
    *sections, last = str(key).split(".")
    inner = keys
    for section in sections:
        inner = inner.setdefault(section, {})
        if not isinstance(inner, dict):
            raise JobError(f"settings: '{key}' is in no section")
    if isinstance(value, Mapping) and last != "storage_options":
        inner.setdefault(last, {})  # a section, of which other keys may be set
        for name, one in value.items():
            _set(keys, f"{key}.{name}", one)
    else:
        inner[last] = value


@contextmanager
def _in_terms_of_the_call() -> Iterator[None]:
    """Errors as the caller of `score` knows things: by parameters, not by keys and options."""
    try:
        yield
    except (JobError, RunError, Alarm) as error:
        said = str(error)
        for pattern, own in REWORDED:
            said = re.sub(pattern, own, said)
        error.args = (said,)
        raise


class Scores:
    """The answers to rows in memory: `table` has a row for each, in their order.

    Its columns are those of an output but for `source` and `row`, and `reason`: why a row has no
    answer, else null. What it holds is freed with it.
    """

    def __init__(self, result: Result, rows: int, index: Any, schema: pa.Schema | None):
        """`schema` is that of the output, if it has no parts."""
        self.result = result
        self._index = index
        output = result.output
        weakref.finalize(self, _free, output.path)
        parts = [output.at(part) for part in sorted(output.committed().values())]
        found = ds.dataset(parts, schema, filesystem=output.store.fs).to_table()
        files = sorted(output.store.names(output.at("_bertbatch", "quarantine")))
        bad = [output.side(f"_bertbatch/quarantine/{name}") for name in files]
        self.table = _aligned(found, bad, rows)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        bad = self.table["reason"].drop_null()
        return f"<Scores of {len(self):,} rows, {len(bad):,} without an answer>"

    def _repr_html_(self) -> str:
        """The first rows, as a notebook shows a DataFrame."""
        return str(self.to_pandas().head()._repr_html_())  # type: ignore[operator]

    def to_pandas(self) -> "pd.DataFrame":
        """The answers, with the index of the DataFrame that was scored."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame if self._index is None else frame.set_index(self._index)

    def to_polars(self) -> Any:
        """The answers as a Polars DataFrame. Raises JobError if Polars is not installed."""
        try:
            import polars
        except ImportError:
            raise JobError("to_polars needs Polars: pip install 'bertbatch[polars]'") from None
        return polars.from_arrow(self.table)

    def attention(self, group: str = "all", value: Any = "") -> "pd.DataFrame":
        """The statistics of every head, as `load_attention` gives them.

        Raises JobError if there are none: see `score`'s `attention`.
        """
        return load_attention(f"memory://{self.result.output.path}", group, value)

    def report(self, to: str | Path) -> None:
        """Writes the report of `bertbatch report` to a file. Raises JobError."""
        from bertbatch.report.page import write_report

        write_report(self.result.output, Path(to), None, None, None)


def _aligned(found: pa.Table, bad: Sequence[pa.Table], rows: int) -> pa.Table:
    """One row for each row that was given: answers, or nulls with a reason."""
    reasons = np.full(rows, None, object)
    for table in bad:
        reasons[table["row"].to_numpy()] = table["reason"].to_numpy(zero_copy_only=False)
    place = np.full(rows, -1, np.int64)
    place[found["row"].to_numpy()] = np.arange(found.num_rows)
    reasons[(place < 0) & (reasons == None)] = LEFT_OUT  # noqa: E711
    taken = found.unify_dictionaries().take(pa.array(place, mask=place < 0))
    taken = taken.drop_columns(["source", "row"])
    return taken.append_column("reason", pa.array(reasons, pa.string()))


def _free(folder: str) -> None:
    store = fsspec.filesystem("memory")
    if store.exists(folder):
        store.rm(folder, recursive=True)


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook, not IPython on a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
