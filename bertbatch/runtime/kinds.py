"""Kinds of model workers: their processor, their model, what was chosen for them."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from bertbatch.engines.batching import Batching
from bertbatch.runtime.executors.cpus import processor

log = logging.getLogger("bertbatch")

BATCHES = {
    Batching.PACKED: "any rows, without padding",
    Batching.PADDED: "padded rows",
    Batching.EQUAL: "rows of equal length",
    Batching.SINGLE: "one row",
}
MUCH_SLOWER = 1.5  # times, than float32: then the log says so


def kind_of(device: str, threads: int, model: str = "") -> str:
    """The kind of a worker, by which records keep what it chose.

    That is its processor, with the kernels for it that are there, its threads, and its model if
    there are several.
    """
    return f"{_device_name(device)}, {threads} threads{model and f', {model}'}"


def threads_of(kind: str) -> int:
    """The threads of a worker of this kind; 0 if its processor is another than here."""
    name, _, count = kind.partition(" threads")[0].rpartition(", ")
    return int(count) if name.startswith(processor()) and count.isdigit() else 0


def find_device() -> Literal["cuda", "cpu"]:
    """What torch finds in this process: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def record_choices(
    kinds: dict[str, dict[str, Any]], descriptions: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Adds what workers say of themselves to what is known of each kind of worker, and logs it."""
    for description in descriptions:
        _record(kinds, description)
    return kinds


def _record(kinds: dict[str, dict[str, Any]], description: dict[str, Any]) -> None:
    choice = dict(description)
    kind = choice.pop("kind")
    if kind not in kinds:
        _tell(kind, choice)
    measured = choice["measured"]
    unmeasured = not kinds.get(kind, {}).get("measured")
    if measured and unmeasured:
        log.info(
            "measured on %s: %s; using %s %s, %d tokens per batch",
            kind,
            ", ".join(f"{what}: {rate:g} tokens/s" for what, rate in measured.items()),
            choice["engine"],
            choice["dtype"],
            choice["tokens_per_batch"],
        )
    if measured or unmeasured:
        kinds[kind] = choice


def _tell(kind: str, choice: dict[str, Any]) -> None:
    """Logs why a kind of worker is slower than it could be."""
    if choice["reason"]:
        log.info(
            "batches are of %s, which is slower: %s", BATCHES[choice["batching"]], choice["reason"]
        )
    if choice["kernels_missing"]:
        log.info(
            "no kernels for %s are built here, which is slower: install a C++ compiler, then "
            "bertbatch again",
            kind,
        )
    if choice["slower"] > MUCH_SLOWER:
        log.warning(
            "model.dtype %s is about %.0f times slower than float32 on %s, and less exact; auto "
            "takes float32 there",
            choice["dtype"],
            choice["slower"],
            kind,
        )


def times_slower(device: str, dtype: str) -> float:
    """How many times slower than float32 what the job asks for is here; 1 if that is no matter."""
    from bertbatch.engines.precision import times_slower

    return times_slower(device, dtype)


def kernels_missing(device: str) -> bool:
    """Whether the kernels for this CPU were not built."""
    from bertbatch.native.kernels import missing

    return device == "cpu" and missing()


@cache
def _device_name(device: str) -> str:
    import torch

    from bertbatch.native.build import version
    from bertbatch.native.kernels import find_kernels

    if device == "cuda":
        from bertbatch.engines.devices import check_gpu

        check_gpu()  # for torch's own error says nothing of the job
        return str(torch.cuda.get_device_name())
    amx = " AMX" if torch.cpu._is_amx_tile_supported() else ""
    kernels = find_kernels()
    own = f" kernels {kernels.level} {version()[:8]}" if kernels else ""
    return f"{processor()} {torch.backends.cpu.get_cpu_capability()}{amx}{own}"
