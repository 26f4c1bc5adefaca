"""What `import bertbatch` gives to run jobs, also in notebooks."""

import sys
import uuid
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from bertbatch.errors import JobError, RunError
from bertbatch.job.schema import Job
from bertbatch.runtime import run as runs
from bertbatch.runtime.result import ProgressListener, Result, load_attention

if TYPE_CHECKING:
    import pandas as pd


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
    table, index = _table(data, text)
    folder = f"memory://bertbatch-{uuid.uuid4().hex}"
    store = fsspec.filesystem("memory")
    with store.open(f"{folder}/in/rows.parquet", "wb") as file:
        pq.write_table(table, file)
    keys: dict[str, Any] = {
        "input": {"path": f"{folder}/in", "text": text, "text_pair": text_pair},
        "output": {"path": f"{folder}/out"},
        "model": {"name": model},
        "runtime": {"runner": "inline"},
        "limits": {"max_quarantined": 1},
        **({"attention": {}} if attention else {}),
    }
    for key, value in (settings or {}).items():
        _set(keys, key, value)
    try:
        job = Job.build(keys, "score")
        result = runs.run(job)
        if result.failed_sources or result.failed_units:
            why = (*result.failed_sources.values(), *result.failed_units.values())
            raise RunError("; ".join(why))
        schema = None if result.output.committed() else runs.preflight(job).schema
        return Scores(result, table.num_rows, index, schema)
    except BaseException:
        _free(f"{folder}/out")
        raise
    finally:
        _free(f"{folder}/in")


def _table(data: Any, text: str) -> tuple[pa.Table, Any]:
    """The data as an Arrow table, and a pandas DataFrame's index. Raises JobError."""
    if isinstance(data, pa.Table):
        return data, None
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable):
        raise JobError(
            f"data is {type(data).__name__}: give a DataFrame, an Arrow table or a list of texts; "
            "files are scored by a job, see bertbatch.run"
        )
    try:
        if not hasattr(data, "columns"):
            index = getattr(data, "index", None) if hasattr(data, "iloc") else None  # of a Series
            values = data if hasattr(data, "iloc") else list(data)
            return pa.table({text: pa.array(values, pa.string(), from_pandas=True)}), index
        if hasattr(data, "to_arrow"):  # Polars
            return data.to_arrow(), None
        return pa.Table.from_pandas(data, preserve_index=False), getattr(data, "index")  # noqa: B009
    except (pa.ArrowException, TypeError) as error:
        raise JobError(f"data cannot be read as a table: {error}") from error


def _set(keys: dict[str, Any], key: str, value: Any) -> None:
    """A key of a job, as `--set` names it, with a value of its own type."""
    *sections, last = key.split(".")
    inner = keys
    for section in sections:
        inner = inner.setdefault(section, {})
        if not isinstance(inner, dict):
            raise JobError(f"settings: '{key}' is in no section")
    inner[last] = value


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
