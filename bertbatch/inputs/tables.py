"""The sources of a job whose input is a Delta or an Iceberg table.

A run plans one version of the table, which the plan names before its first source and again after
the last. So a run that was killed is continued with that version, and the next night begins where
it ended. How a table is read is in `delta.py` and `iceberg.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from bertbatch.errors import JobError
from bertbatch.inputs.outside import check_outside
from bertbatch.job.schema import Job
from bertbatch.registry import DATASETS
from bertbatch.storage import stores
from bertbatch.units import Source

LOG = "_delta_log"
ICEBERG = "iceberg://"
THREADS = 16


class Versions(Protocol):
    """A table at one of its versions. Names are those of its files."""

    @property
    def id(self) -> str:
        """The table's own id."""

    @property
    def version(self) -> int:
        """Grows with every commit."""

    def at(self, version: int) -> "Versions":
        """The table at an earlier version. Raises JobError."""

    def files(self) -> list[str]:
        """The files of this version."""

    def added(self, since: int) -> list[str]:
        """The files with rows that commits after a version have added, and that are still there.

        Raises JobError if rows of that version were deleted or changed, or the log is gone.
        """

    def source(self, name: str) -> Source:
        """A file as a source. Raises FileNotFoundError."""

    def url(self, name: str) -> str:
        """Where a file is."""


@dataclass
class InputTable:
    """A table, and the version that a run plans."""

    given: str
    versions: Versions
    planned: int

    def sources(self, names: list[str]) -> list[Source]:
        """Sources by name. Raises JobError if a file is gone."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self._source, names))

    def follow(
        self, planned: Mapping[str, Source], seen: Sequence[tuple[int, bool]]
    ) -> list[Source]:
        """The sources that were planned, and those that the version to plan has besides.

        `seen`: the versions whose planning was begun, and whether it was ended. Raises JobError
        if the log does not tell what is new, or tells of rows that were changed.
        """
        table = self.versions
        if planned and not seen:
            raise JobError(f"input.path {self.given} is another table than the one planned before")
        done = max((version for version, ended in seen if ended), default=None)
        after = -1 if done is None else done
        begun = [version for version, ended in seen if not ended and version > after]
        self.planned = begun[-1] if begun else table.version
        if self.planned != table.version:
            table = table.at(self.planned)
        names = table.files() if done is None else table.added(done)
        new = self.sources([name for name in names if name not in planned])
        return sorted([*planned.values(), *new], key=lambda source: source.id)

    def _source(self, name: str) -> Source:
        try:
            return self.versions.source(name)
        except FileNotFoundError as error:
            raise JobError(
                f"input.path {self.given}: the table's log names {name}, which is not there; was "
                "it vacuumed?"
            ) from error


def find_table(job: Job) -> InputTable | None:
    """The table that the job's input is; None if it is none.

    Raises JobError if the table cannot be read, or the job wants one and there is none.
    """
    options = job.input
    given = options.path if isinstance(options.path, str) else ""
    if given.startswith(ICEBERG):
        table = _opened("iceberg", given)(given, job.input.storage_options)
        return InputTable(given, table, table.version)
    if options.format == "iceberg":
        raise JobError("input.format iceberg: input.path must be iceberg://CATALOG/NAMESPACE.TABLE")
    wanted = options.format == "delta"
    if not (wanted or options.format == "auto"):
        return None
    if not given or stores.is_glob(given):
        if wanted:
            raise JobError("input.format delta: input.path must be the folder of one table")
        return None
    store, path = stores.connect(given, options.storage_options)
    if "http" in store.protocol or not store.is_folder(f"{path}/{LOG}"):
        if wanted:
            raise JobError(f"input.path {given}: there is no Delta table there")
        return None
    check_outside(job, store, path)
    table = _opened("delta", given)(given, store, path)
    return InputTable(given, table, table.version)


def _opened(kind: str, given: str) -> Callable[..., Versions]:
    """How a table of a kind is opened. Raises JobError if what it needs is not installed."""
    dataset = DATASETS[kind]
    if not dataset.installed:
        raise JobError(
            f"input.path {given}: {kind} tables need an extra: "
            f"pip install 'bertbatch[{dataset.extra}]'"
        )
    opened: Callable[..., Versions] = dataset.load()
    return opened
