"""The sources of a job, listed from its paths, globs, folders or lists.

Names tell the formats of files; no file is opened here.
"""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath

from bertbatch.errors import EmptyInput, JobError
from bertbatch.inputs.huggingface import saved_files
from bertbatch.inputs.outside import check_outside
from bertbatch.inputs.paths import find
from bertbatch.inputs.refused_tables import refuse_tables
from bertbatch.inputs.tables import InputTable, find_table
from bertbatch.job.schema import Job
from bertbatch.registry import FORMATS
from bertbatch.storage import stores
from bertbatch.units import Source


@dataclass
class Listing:
    """The sources, sorted by id; how many files were left out, by reason."""

    format: str
    sources: list[Source]
    left_out: Counter[str] = field(default_factory=Counter)
    table: InputTable | None = None  # that the sources are files of

    def url(self, id_: str) -> str:
        """Where a source is that may have been planned before; "" if it is gone."""
        if self.table is not None:
            return self.table.versions.url(id_)
        return self._urls.get(id_, "")

    @cached_property
    def _urls(self) -> dict[str, str]:
        return {source.id: source.url for source in self.sources}


def list_sources(job: Job) -> Listing:
    """Every source of the job.

    Raises JobError if there is nothing at a path, a glob matches nothing, no reader reads a
    file's format, or the output lies inside the input.
    """
    options = job.input
    if (table := find_table(job)) is not None:
        return Listing("parquet", table.sources(table.versions.files()), table=table)
    found: dict[str, tuple[Source, str]] = {}
    left_out: Counter[str] = Counter()
    meant: set[str] = set()  # by their own names, or by a glob
    youngest = time.time() - options.min_age
    for given in options.paths:
        for source, modified, explicit in _files(given, job, left_out):
            kind = _format(source.path)
            if options.format in FORMATS:
                if kind not in (None, "text", options.format) and not explicit:
                    left_out[f"{kind}, not {options.format}"] += 1
                    continue
                kind = options.format
            if kind is None:
                if explicit:
                    raise JobError(_unreadable(given, source.path))
                left_out[f"not {' or '.join(FORMATS)}"] += 1
            elif options.min_age and modified is not None and modified > youngest:
                left_out[f"younger than input.min_age ({options.min_age:g} s)"] += 1
            else:
                key = source.id if isinstance(options.path, str) else source.url
                # A local name need not be Unicode, but the plan and parts can only hold Unicode.
                key = key.encode(errors="backslashreplace").decode()
                named = Source(key, source.url, source.size, source.stamp)
                if key in found and found[key][0].url != source.url:
                    raise JobError(f"input.path {given}: two files are named {key}; rename one")
                found[key] = (named, kind)
                if explicit:
                    meant.add(key)
    formats = sorted({kind for _, kind in found.values()})
    if "text" in formats and len(formats) > 1:
        # A README.txt beside the data, say.
        notes = [key for key, (_, kind) in found.items() if kind == "text" and key not in meant]
        if notes:
            left_out[f"text files beside {formats[0]} files"] += len(notes)
        found = {key: found[key] for key in found.keys() - notes}
        formats = sorted({kind for _, kind in found.values()})
    if len(formats) > 1:
        firsts = {kind: key for key, (_, kind) in sorted(found.items(), reverse=True)}
        there = " and ".join(f"{kind} files ({firsts[kind]})" for kind in formats)
        raise JobError(
            f"input.path {options.path} holds {there}; set input.format, or use a glob such as "
            "*.parquet"
        )
    if not found and not any("younger" in reason for reason in left_out):
        raise EmptyInput(
            f"input.path {options.path}: no {' or '.join(FORMATS)} files there "
            "(names that start with _ or . are ignored)"
        )
    sources = [found[key][0] for key in sorted(found)]
    return Listing(formats[0] if formats else options.format, sources, left_out)


def _files(
    given: str, job: Job, left_out: Counter[str]
) -> Iterator[tuple[Source, float | None, bool]]:
    """The files of one given path, with ids relative to its root."""
    if given == "-":
        raise JobError(
            "input.path -: standard input cannot be read again when a run resumes; write it to a "
            "file"
        )
    store, path = stores.connect(given, job.input.storage_options)
    try:
        found = find(store, path)
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError):  # a web server that does not answer
            reason = stores.public(error.__cause__)
            raise JobError(f"input.path {given}: cannot be reached: {reason}") from error
        raise EmptyInput(f"input.path {given}: no such file or folder") from error
    except OSError as error:
        raise JobError(f"input.path {given}: cannot be listed: {error}") from error
    refuse_tables(given, store, path, found)
    if job.input.format in ("auto", "huggingface"):
        found = saved_files(given, store, found)
    left_out.update(found.left_out)
    files = found.files
    single = [f.path for f in files] == [path]
    glob = stores.is_glob(path) and not single
    if glob and not files:
        raise EmptyInput(f"input.path {given}: no file matches this glob")
    root = path
    if glob:
        root = path[: next(i for i, c in enumerate(path) if c in "*?[")].rpartition("/")[0]
    elif single:
        root = path.rpartition("/")[0]
    if not single:
        check_outside(job, store, path)
    for file in files:
        relative = file.path.removeprefix(root).lstrip("/")
        url = stores.url_of(given, store, file.path)
        yield Source(relative, url, file.size, file.stamp), file.modified, single or glob


def _format(url: str) -> str | None:
    file = url.lower()
    return next((name for name, kind in FORMATS.items() if file.endswith(kind.endings)), None)


def _unreadable(given: str, url: str) -> str:
    name = PurePosixPath(url).name
    suffix = "".join(PurePosixPath(name).suffixes) or "no suffix"
    known = ", ".join(ending for kind in FORMATS.values() for ending in kind.endings)
    return (
        f"input.path {given}: '{name}' ({suffix}) is not a format bertbatch reads; it reads "
        f"{known}. If the name misleads, set input.format"
    )
