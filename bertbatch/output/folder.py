"""The output folder: its contract, what is committed in it, and the records of runs.

part-<source stem>-<first row>-<unit id>.parquet   predictions
_SUCCESS.json                                      only while every planned unit is committed
_bertbatch/job.yaml                                the contract
_bertbatch/plan/, runs/, lease.json                see plan.py, here, lease.py
_bertbatch/quarantine/, attention/                 side files of parts: see commit.py
"""

import base64
import json
import logging
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from bertbatch.errors import JobError
from bertbatch.job.safe_yaml import read_yaml
from bertbatch.job.schema import Job
from bertbatch.model.spec import ModelSpec
from bertbatch.output.records import CONTRACT, RUN, fits, reading, text
from bertbatch.statistics.statistic import make_statistics
from bertbatch.storage import local_disk, stores
from bertbatch.storage.stores import Store
from bertbatch.units import Unit, digest

log = logging.getLogger("bertbatch")

FORMAT_VERSION = 1
FOOTER_KEY = b"bertbatch"
# How values are made, where that has changed since the first outputs; an output keeps the rules
# that it was begun with. hive: 1, the values of folders such as k=a%2Fb are decoded. answers: 1,
# rows share batches only where that leaves their answers alone, and padding and token types are
# the tokenizer's.
RULES = {"hive": 1, "answers": 1}
FOOTER_TYPES = {
    **dict.fromkeys(("unit", "attempt"), str),
    **dict.fromkeys(("rows_in", "rows_scored", "rows_quarantined"), int),
    "side_files": dict,
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

    def at(self, *names: str) -> str:
        return "/".join((self.path, *names))

    def check_access(self) -> None:
        """Raises JobError if the system says that this process may not write to a local output."""
        if self.store.is_local and (why := local_disk.closed(Path(self.path))):
            raise JobError(f"output.path {self.path}: cannot be written: {why}")

    def try_out(self) -> None:
        """Raises JobError if nothing can be committed to a local output, having tried."""
        try:
            if self.store.is_local:
                local_disk.try_out(Path(self.path))
        except OSError as error:
            raise JobError(f"output.path {self.path}: cannot be written: {error}") from error

    # The contract

    def contract(self) -> dict[str, Any] | None:
        """What this output was begun as, or None if it is new."""
        try:
            data = self.store.read(self.at("_bertbatch", "job.yaml"))
        except FileNotFoundError:
            if any(name.endswith(".parquet") for name in self.store.names(self.path)):
                raise JobError(
                    f"output.path {self.path} holds Parquet files that are not bertbatch's; "
                    "choose an empty folder"
                ) from None
            return None
        except OSError as error:
            raise JobError(f"output.path {self.path}: cannot be read: {error}") from error
        with reading(self.at("_bertbatch", "job.yaml")):
            loaded = read_yaml(data)
            if not fits(loaded, CONTRACT):
                raise ValueError("it is not an output's contract")
            stored_schema(loaded)
        return dict(loaded)

    def is_here(self) -> bool:
        """Whether this process sees the contract of a local output: another disk has none."""
        return not self.store.is_local or Path(self.at("_bertbatch", "job.yaml")).exists()

    def agree(self, contract: dict[str, Any]) -> bool:
        """Creates the contract if absent; whether the store then refuses to create it again.

        Some stores that speak a protocol with conditions ignore them. Raises JobError if the output
        has another contract.
        """
        text = yaml.safe_dump(contract, sort_keys=False, allow_unicode=True)
        for _ in range(2):
            try:
                self.store.create(self.at("_bertbatch", "job.yaml"), text.encode())
            except FileExistsError as error:
                existing = self.contract()
                if existing is None:
                    raise JobError(
                        f"output.path {self.path}: cannot be written: {error} is taken by what is "
                        "no file; name another folder"
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
        return {name[: -len(".parquet")].rpartition("-")[2]: name for name in names}

    def footer(self, part: str) -> dict[str, Any] | None:
        """What a part says of itself, or None if there is no such part.

        Raises OSError if it cannot be read, or is no part.
        """
        try:
            with stores.as_os_errors(), self.store.open(self.at(part)) as file:
                return _footer(pq.read_metadata(file).metadata)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OSError(f"{self.at(part)} cannot be read: {error}") from error

    def part(self, part: str) -> tuple[dict[str, Any], pa.Table]:
        """A part's footer and rows, its pages held against their checksums.

        Raises OSError, KeyError or ValueError if it is not there or cannot be read.
        """
        with stores.as_os_errors(), self.store.open(self.at(part)) as file:
            content = pq.ParquetFile(file, page_checksum_verification=True)
            return _footer(content.metadata.metadata), content.read()

    def side(self, path: str) -> pa.Table:
        """A side file's rows. Raises OSError."""
        try:
            with stores.as_os_errors():
                return pa.ipc.open_file(self.store.read(self.at(path))).read_all()
        except OSError as error:
            raise OSError(f"{self.at(path)} cannot be read: {error}") from error

    def suspected(self) -> set[str]:
        """The ids of units that a quarantine file was written for, whether committed or not."""
        return {unit_of(name) for name in self.store.names(self.at("_bertbatch", "quarantine"))}

    def quarantined(self, units: Sequence[Unit]) -> int:
        """Rows in quarantine over these committed units, without those scored again since.

        Only parts that may name a quarantine file are opened, so that this costs little in
        a large output.
        """
        suspected = self.suspected()
        parts = [unit.part for unit in units if unit.id in suspected]
        with ThreadPoolExecutor(16) as pool:
            footers = pool.map(self.footer, parts)
            held = sum(int(footer["rows_quarantined"]) for footer in footers if footer)
        return held - sum(unit.rows for unit in units if unit.again)

    # Records of runs

    def clear_success(self) -> None:
        stores.retried(lambda: self.store.delete(self.at("_SUCCESS.json")))

    def write_success(self, record: dict[str, Any]) -> None:
        data = to_json(record)
        stores.retried(lambda: self.store.replace(self.at("_SUCCESS.json"), data))

    def success(self) -> dict[str, Any] | None:
        try:
            record = json.loads(self.store.read(self.at("_SUCCESS.json")))
        except (FileNotFoundError, ValueError, RecursionError):  # cut off counts as absent
            return None
        return record if fits(record, {"plan": text}) else None

    def write_run(self, run_id: str, record: dict[str, Any]) -> None:
        path, data = self.at("_bertbatch", "runs", f"{run_id}.json"), to_json(record)

        def write() -> None:
            with suppress(FileExistsError):  # the name is this run's: an earlier try was heard
                self.store.create(path, data)

        stores.retried(write)

    def runs(self, last: int | None = None) -> list[dict[str, Any]]:
        """The records of earlier runs, oldest first; of the last few only, if so asked.

        One that is damaged is left out: it tells, and nothing is decided by it alone.
        """
        folder = self.at("_bertbatch", "runs")
        found = []
        for name in self.store.names(folder)[-last if last else None :]:
            try:
                record = json.loads(self.store.read(f"{folder}/{name}"))
            except (ValueError, RecursionError):
                record = None
            if fits(record, RUN):
                found.append(record)
            else:
                log.warning("%s/%s is damaged, or no run's record; left out", folder, name)
        return found


def _footer(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Raises ValueError and others if it is none.

    The side files that a footer names are read and deleted: one that another program wrote must
    not lead to files elsewhere.
    """
    footer = json.loads(metadata[FOOTER_KEY])
    if not isinstance(footer, dict):
        raise ValueError("its footer is no object")
    for key, kind in FOOTER_TYPES.items():
        if not isinstance(footer.get(key), kind):
            raise ValueError(f"its footer's {key} is {footer.get(key)!r}")
    for path in footer["side_files"].values():
        if not re.fullmatch(r"_bertbatch/(quarantine|attention)/[\w-]+\.arrow", str(path)):
            raise ValueError(f"names {path!r}, which is no side file")
    return footer


def unit_of(side_file: str) -> str:
    """The id of the unit that a side file was written for, by its name or path."""
    return side_file.rpartition("/")[2].partition("-")[0]


def open_output(path: str, storage_options: dict[str, Any] | None = None) -> Output:
    """An output that is to be read. Raises JobError if its path cannot be understood."""
    return Output(*stores.connect(path, storage_options or {}))


def rules_of(contract: dict[str, Any] | None, path: str) -> dict[str, int]:
    """The rules of an output, or of a new one. Raises JobError if we do not know them all."""
    if contract is None:
        return dict(RULES)
    rules = contract.get("rules", {})
    newer = [name for name, version in rules.items() if version > RULES.get(name, 0)]
    if newer:
        raise JobError(
            f"output.path {path} was begun by a newer bertbatch ({', '.join(newer)}); use that one"
        )
    return dict(rules)


def make_contract(
    job: Job, spec: ModelSpec, schema: pa.Schema, rules: Mapping[str, int] = RULES
) -> dict[str, Any]:
    """Everything that all of an output's parts have in common; differences are refused."""
    return {
        "format_version": FORMAT_VERSION,
        "model": {"name": spec.name, **spec.answers},
        "input": {
            **{key: getattr(job.input, key) for key in ("text", "text_pair")},
            "carry": job.input.carried,
            "limit": job.input.limit,
            "csv": job.input.csv.model_dump(),
        },
        "attention": _attention(job, spec),
        "rules": dict(rules),
        "columns": {field.name: str(field.type) for field in schema},
        "schema": base64.b64encode(schema.serialize().to_pybytes()).decode(),
    }


def _attention(job: Job, spec: ModelSpec) -> dict[str, Any] | None:
    """What an output's statistics have in common; `statistics` end at these largest values."""
    if job.attention is None:
        return None
    statistics = make_statistics(job.attention.statistics)
    return {
        **job.attention.model_dump(),
        "statistics": {s.name: s.most(spec.max_length) for s in statistics},
        "layers": spec.layers,
        "heads": spec.heads,
    }


def scoring_fingerprint(spec: ModelSpec) -> str:
    return digest([FORMAT_VERSION, spec.answers])


def stored_fingerprint(contract: dict[str, Any]) -> str:
    """The scoring fingerprint of the parts of an output with this contract."""
    answers = {key: value for key, value in contract["model"].items() if key != "name"}
    return digest([contract["format_version"], answers])


def stored_schema(contract: dict[str, Any]) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(contract["schema"])))


def compare(existing: dict[str, Any], wanted: dict[str, Any], path: str) -> None:
    """Raises JobError naming what differs between an output's contract and the job."""
    old, new = _flat(existing), _flat(wanted)
    ignored = ("schema", "model.name")  # said by the columns; a name may move
    differences = [
        f"  {key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in ignored
    ]
    if differences:
        listed = "\n".join(differences)
        raise JobError(
            f"output.path {path} belongs to another job:\n{listed}\n"
            "An output never mixes answers: score into a new folder, such as one with the date"
        )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def to_json(record: dict[str, Any]) -> bytes:
    """A record as it is stored."""
    return (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
