"""The output folder: what is committed in it, its contract's file, the records of runs.

part-<source stem>-<first row>-<unit id>.parquet   predictions: see part.py
_SUCCESS.json                                      only while every planned unit is committed
_bertbatch/job.yaml                                the contract: see contract.py
_bertbatch/plan/                                   see plan/log.py
_bertbatch/runs/<run id>.json                      the records of runs
_bertbatch/lease.json                              see lease.py
_bertbatch/quarantine/, attention/                 side files of parts: see part.py
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from bertbatch.errors import JobError
from bertbatch.job.schema import Job
from bertbatch.output.contract import compare, decode_contract, encode_contract
from bertbatch.output.part import (
    accounted,
    decode_footer,
    decode_part,
    decode_side,
    unit_of_part,
    unit_of_side,
)
from bertbatch.output.records import count, fits, number, reading, row, text, to_json
from bertbatch.registry import ENGINES
from bertbatch.storage import local_disk, stores
from bertbatch.storage.retry import retry
from bertbatch.storage.stores import Store
from bertbatch.units import Unit

log = logging.getLogger("bertbatch")

QUARANTINED = ["source", "row", "reason"]  # of a row that cannot be scored
RUN_SHAPE = {  # what the program relies on
    "exit_code": count,
    "rows_per_second": number,
    "failed_sources": {"*": row(text, text)},
    "date?": text,
    "began?": text,
    "alarms?": [text],
    "advice?": text,
    "this_run": {
        **dict.fromkeys(("rows_scored", "rows_quarantined", "rows_again?"), count),
        "truncated": (count, {"*": count}),
        "labels": {"*": count},
    },
    "night?": {"rows_scored": count, "labels": {"*": count}},
    **dict.fromkeys(("entries?", "units?", "rows_in?", "rows_left_out?"), count),
    "job?": {"alarms?": {}},
    "chosen?": {
        "batches?": count,
        "kinds?": {
            "*": {
                "engine": tuple(ENGINES),
                "dtype": ("float32", "bfloat16", "float16", "int8", "fp8"),
                "tokens_per_batch": count,
                "measured": {"*": number},
                "rate?": number,
                "reason?": text,
                "slower?": number,
                "batching?": ("packed", "padded", "equal_length", "single"),
            }
        },
    },
}


@dataclass(frozen=True)
class Output:
    """One output folder on its store."""

    store: Store
    path: str

    @staticmethod
    def of(job: Job) -> "Output":
        output = open_output(job.output.path, job.output.storage_options)
        if output.store.is_local and output.store.fs.isfile(output.path):
            raise JobError(f"output.path {job.output.path} is a file; name a folder")
        return output

    @property
    def url(self) -> str:
        """Where it is, as a command takes it."""
        return self.path if self.store.is_local else str(self.store.fs.unstrip_protocol(self.path))

    def at(self, *names: str) -> str:
        return "/".join((self.path, *names))

    def check_access(self) -> None:
        """Raises JobError if this process has no permission to write to a local output."""
        if self.store.is_local and (why := local_disk.closed(Path(self.path))):
            raise JobError(f"output.path {self.path}: cannot be written: {why}")

    def try_out(self) -> None:
        """Creates and removes a file in a local output. Raises JobError if no run could commit."""
        try:
            if self.store.is_local:
                local_disk.try_out(Path(self.path))
        except OSError as error:
            raise JobError(f"output.path {self.path}: cannot be written: {error}") from error

    # The contract

    def contract(self) -> dict[str, Any] | None:
        """The contract that this output was begun with, or None if it is new.

        Raises JobError if it cannot be read.
        """
        try:
            data = self.store.read(self.at("_bertbatch", "job.yaml"))
        except FileNotFoundError:
            if any(name.endswith(".parquet") for name in self.store.names(self.path)):
                raise JobError(
                    f"output.path {self.path} holds Parquet files that bertbatch has not written; "
                    "choose an empty folder"
                ) from None
            return None
        except NotADirectoryError as error:
            raise JobError(
                f"output.path {self.path} is a file, or below one; name a folder"
            ) from error
        except OSError as error:
            raise JobError(f"output.path {self.path}: cannot be read: {error}") from error
        with reading(self.at("_bertbatch", "job.yaml")):
            return decode_contract(data, self.path)

    def existing_contract(self) -> dict[str, Any]:
        """The contract. Raises JobError if there is none."""
        contract = self.contract()
        if contract is None:
            raise JobError(
                f"{self.path} is not an output of bertbatch, or no run has written to it yet"
            )
        return contract

    def is_here(self) -> bool:
        """Whether this process can see a local output: the same path on another disk has none."""
        return not self.store.is_local or Path(self.at("_bertbatch", "job.yaml")).exists()

    def write_contract(self, contract: dict[str, Any]) -> bool:
        """Creates the contract if absent. Returns whether the store refuses to create it twice.

        Some stores accept the condition of a create and ignore it. Raises JobError if the output
        has another contract.
        """
        data = encode_contract(contract)
        for _ in range(2):
            try:
                self.store.create(self.at("_bertbatch", "job.yaml"), data)
            except FileExistsError as error:
                existing = self.contract()
                if existing is None:
                    raise JobError(
                        f"output.path {self.path}: cannot be written: {error} exists and is not a "
                        "file; name another folder"
                    ) from error
                compare(existing, contract, self.path)
                return self.store.creates_conditionally
            except OSError as error:
                raise JobError(f"output.path {self.path}: cannot be written: {error}") from error
        return False

    # What is committed

    def committed(self) -> dict[str, str]:
        """The part's name of each committed unit, by the unit's id."""
        names = (n for n in self.store.names(self.path) if n.endswith(".parquet"))
        return {unit_of_part(name): name for name in names}

    def footer(self, part: str) -> dict[str, Any] | None:
        """A part's footer, or None if there is no such part. Raises OSError."""
        try:
            with stores.as_os_errors(), self.store.open(self.at(part)) as file:
                return decode_footer(file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OSError(f"{self.at(part)} cannot be read: {error}") from error

    def part(
        self, part: str, columns: Sequence[str] | None = None
    ) -> tuple[dict[str, Any], pa.Table]:
        """A part's footer and rows, of all columns or some; pages' checksums are checked.

        Raises OSError.
        """
        with stores.as_os_errors(), self.store.open(self.at(part)) as file:
            return decode_part(file, columns)

    def side(self, path: str) -> pa.Table:
        """A side file's rows. Raises OSError."""
        try:
            with stores.as_os_errors():
                return decode_side(self.store.read(self.at(path)))
        except OSError as error:
            raise OSError(f"{self.at(path)} cannot be read: {error}") from error

    def quarantine_files(self) -> set[str]:
        """The ids of units that a quarantine file was written for, whether committed or not."""
        return set(map(unit_of_side, self.store.names(self.at("_bertbatch", "quarantine"))))

    def quarantined(self, units: Sequence[Unit]) -> int:
        """Rows in quarantine over these committed units, without those scored again since.

        Only parts that may name a quarantine file are opened, so that this costs little in
        a large output.
        """
        written_for = self.quarantine_files()
        parts = [unit.part for unit in units if unit.id in written_for]
        with ThreadPoolExecutor(16) as pool:
            footers = pool.map(self.footer, parts)
            held = sum(int(footer["rows_quarantined"]) for footer in footers if footer)
        return held - sum(unit.rows for unit in units if unit.retry)

    def quarantined_rows(self, units: Sequence[Unit]) -> Iterator[tuple[str, int, str]]:
        """Source, row and reason of each row that `quarantined` counts, unit by unit.

        Raises OSError if a file cannot be read.
        """
        written_for = self.quarantine_files()
        again = {unit.retry.unit: set(unit.retry.rows) for unit in units if unit.retry}
        for unit in units:
            footer = self.footer(unit.part) if unit.id in written_for else None
            if footer is None or "quarantine" not in footer["side_files"]:
                continue
            taken = again.get(unit.id, ())
            rows = in_order(self.side(footer["side_files"]["quarantine"]))
            for place in zip(*rows.to_pydict().values(), strict=True):
                if place[:2] not in taken:
                    yield place

    def left_out(self, units: Sequence[Unit]) -> int:
        """Rows of these committed units that `input.where` left out; every part is opened."""
        with ThreadPoolExecutor(16) as pool:
            footers = pool.map(self.footer, [unit.part for unit in units])
            return sum(accounted(footer)[2] for footer in footers if footer)

    # Records of runs

    def clear_success(self) -> None:
        retry(lambda: self.store.delete(self.at("_SUCCESS.json")))

    def write_success(self, record: dict[str, Any]) -> None:
        data = to_json(record)
        retry(lambda: self.store.replace(self.at("_SUCCESS.json"), data))

    def success(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self.store.read(self.at("_SUCCESS.json")))
        except (FileNotFoundError, ValueError, RecursionError):  # cut off counts as absent
            return None
        return record if fits(record, {"plan": text}) else None

    def write_run(self, run_id: str, record: dict[str, Any]) -> None:
        path, data = self.at("_bertbatch", "runs", f"{run_id}.json"), to_json(record)

        def write() -> None:
            with suppress(FileExistsError):  # this run's own name: an earlier try's reply was lost
                self.store.create(path, data)

        retry(write)

    def runs(self, last: int | None = None) -> list[dict[str, Any]]:
        """The records of earlier runs, oldest first: all of them, or the `last` ones.

        A damaged record is left out with a warning, since no record decides anything alone.
        """
        return list(islice(self.newest_runs(), last or None))[::-1]

    def newest_runs(self) -> Iterator[dict[str, Any]]:
        """As `runs`, the newest first; each is read when it is asked for."""
        folder = self.at("_bertbatch", "runs")
        for name in reversed(self.store.names(folder)):
            try:
                record = json.loads(self.store.read(f"{folder}/{name}"))
            except (ValueError, RecursionError):
                record = None
            if fits(record, RUN_SHAPE):
                yield record
            else:
                log.warning("%s/%s is damaged, or not the record of a run; left out", folder, name)


def in_order(quarantined: pa.Table) -> pa.Table:
    """Source, row and reason of rows in quarantine, by source and row."""
    places = quarantined.select(QUARANTINED)
    return places.sort_by([("source", "ascending"), ("row", "ascending")])


def failed_in(record: dict[str, Any]) -> dict[str, str]:
    """The sources that a run could not score, by its record, with the reasons."""
    return {id_: why for id_, (_, why) in record["failed_sources"].items()}


def open_output(path: str, storage_options: dict[str, Any] | None = None) -> Output:
    """The output at a path. Raises JobError if the path cannot be understood."""
    return Output(*stores.connect(path, storage_options or {}))
