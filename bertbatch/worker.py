"""A model worker: one loaded engine, the same in every runner."""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bertbatch import scoring
from bertbatch.calibration import ENOUGH_TOKENS, calibrate
from bertbatch.engines import load_engine
from bertbatch.errors import JobError
from bertbatch.job import Attention, Model
from bertbatch.model import ModelSpec
from bertbatch.scoring import Scored
from bertbatch.tokenizer import Tokens, get_tokenizer

if TYPE_CHECKING:
    from bertbatch.engines.watched import Watch

log = logging.getLogger("bertbatch")

CHOSEN = ("engine", "dtype", "tokens_per_batch")  # what a calibration decides


class ModelWorker:
    """Loads the model, once; if the input is large, calibrates on the first unit that is, too.

    `known` is what earlier runs on this output chose, by kind of worker: then that holds.
    Raises JobError if the model cannot be had.
    """

    def __init__(
        self,
        spec: ModelSpec,
        settings: Model,
        device: str,
        threads: int,
        known: Mapping[str, Mapping[str, Any]],
        large: bool,
        attention: Attention | None = None,
    ):
        self._spec = spec
        self._threads = threads
        self._kind = f"{_device_name(device)}, {threads} threads"
        before = known.get(self._kind, {})
        self._rates: dict[str, float] = dict(before.get("measured", {}))
        self._settings = settings.model_copy(
            update={k: before[k] for k in CHOSEN if before and getattr(settings, k) == "auto"}
        )
        if attention:  # only one engine can
            self._settings = settings = self._settings.model_copy(update={"engine": "torch"})
        watch = _make_watch(spec, attention, threads) if attention else None
        try:
            self._engine = load_engine(
                self._settings.engine, spec, self._settings, device, threads, watch
            )
        except JobError:
            if self._settings == settings:
                raise
            # What was chosen then cannot be had now: OpenVINO may be gone.
            self._settings, self._rates, before = settings, {}, {}
            self._engine = load_engine(settings.engine, spec, settings, device, threads, watch)
        fixed = all(getattr(self._settings, key) != "auto" for key in CHOSEN)
        self._settled = bool(before) or fixed or not large

    def score(
        self, tokens: Tokens, first: int, stop: int, go_on: Callable[[], None] = lambda: None
    ) -> Scored:
        """Scores rows of a tokenized unit."""
        if not self._settled and len(tokens.ids) >= ENOUGH_TOKENS:
            self._settled = True
            self._engine, self._rates = calibrate(
                self._engine, self._spec, self._settings, self._threads, tokens
            )
        return scoring.score(self._engine, tokens, first, stop, go_on)

    def describe(self) -> dict[str, Any]:
        """What was chosen, for the log and the run's record; tokens/s where measured."""
        return {
            "kind": self._kind,
            "engine": self._engine.name,
            "device": self._engine.device,
            "dtype": self._engine.dtype,
            "tokens_per_batch": self._engine.tokens_per_batch,
            "packed": self._engine.packs,
            "measured": self._rates,
        }


def find_device() -> Literal["cuda", "cpu"]:
    """What torch finds in this process: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def note(kinds: dict[str, dict[str, Any]], description: dict[str, Any]) -> dict[str, Any]:
    """Adds what a worker says of itself to what is known of each kind of worker."""
    choice = dict(description)
    kind = choice.pop("kind")
    measured = choice["measured"]
    unmeasured = not kinds.get(kind, {}).get("measured")
    if measured and unmeasured:
        log.info(
            "measured on %s: %s; going on with %s %s, %d tokens a batch",
            *(kind, ", ".join(f"{what}: {rate:g} tokens/s" for what, rate in measured.items())),
            *(choice[key] for key in CHOSEN),
        )
    if measured or unmeasured:
        kinds[kind] = choice
    return kinds


def _make_watch(spec: ModelSpec, attention: Attention, threads: int) -> "Watch":
    from bertbatch.engines.classes import token_classes
    from bertbatch.engines.watched import Watch
    from bertbatch.statistics import make_statistics

    statistics = make_statistics(attention.statistics)
    classes = token_classes(get_tokenizer(spec).python, statistics)
    return Watch(statistics, classes, attention.queries, threads)


@cache
def _device_name(device: str) -> str:
    import torch

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model n"))
    except (OSError, StopIteration):
        name = "CPU"
    amx = " AMX" if torch.cpu._is_amx_tile_supported() else ""
    return f"{name} {torch.backends.cpu.get_cpu_capability()}{amx}"
