"""A model worker: one loaded engine, the same in every runner."""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from bertbatch.engines import scoring
from bertbatch.engines.batching import Batching
from bertbatch.engines.calibration import ENOUGH_TOKENS, calibrate, rough_rate
from bertbatch.engines.engine import Engine, EngineOptions, load_engine
from bertbatch.engines.probe import Probe
from bertbatch.engines.scoring import Scored
from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.job.schema import Attention
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.model.tokens import Tokens
from bertbatch.output.contract import RULES
from bertbatch.runtime.context import Context
from bertbatch.runtime.executors.cpus import processor

if TYPE_CHECKING:
    from bertbatch.engines.attention_stats import AttentionStats

log = logging.getLogger("bertbatch")

BATCHES = {
    Batching.PACKED: "any rows, without padding",
    Batching.PADDED: "padded rows",
    Batching.EQUAL: "rows of equal length",
    Batching.SINGLE: "one row",
}
MUCH_SLOWER = 1.5  # times, than float32: then the log says so
# That score on a worker. On a GPU the first batch of the next rows is started before the last
# answer of these is fetched; a CPU computes where a batch is started.
THREADS = {"cuda": 2, "cpu": 1}
CHOSEN = ("engine", "dtype", "tokens_per_batch")  # what a calibration decides
FOUND = ("dtype", "batching", "reason", "operators")  # what is tried once for each kind of worker


class ModelWorker:
    """Loads the model, once; scores when it is settled. If the input is large, calibrates on
    the first unit that is, too.

    `known` is what earlier runs on this output, or other workers, found out and chose, by kind
    of worker: then that holds; `rules` are the output's. Raises JobError if the model cannot
    be had.
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
        rules: Mapping[str, int] = RULES,
        expected_tokens: int = 0,
    ):
        self._spec = spec
        self._allowed = rules.get("answers", 0)
        self._threads = threads
        self._device = device
        self._large = large
        self._expected_tokens = expected_tokens
        self.kind = kind_of(device, threads)
        self._asked = settings.model_copy(update={"engine": "torch"}) if attention else settings
        self._statistics = make_attention_stats(spec, attention, threads) if attention else None
        self._turn = Lock()  # to start batches
        self._rate = 0.0  # tokens/s, roughly; measured where it decides how large units are
        self._slower = _times_slower(device, settings.dtype)
        self._load(known.get(self.kind, {}))

    @classmethod
    def of(cls, context: Context, device: str, threads: int) -> "ModelWorker":
        """A worker for a run. Raises JobError if the model cannot be loaded."""
        return cls(
            spec=context.spec,
            settings=context.job.model,
            device=device,
            threads=threads,
            known=context.known,
            large=context.large,
            attention=context.job.attention,
            rules=context.rules,
            expected_tokens=context.expected_tokens,
        )

    def _load(self, before: Mapping[str, Any]) -> None:
        """Loads what was chosen before, or else what the job says."""
        asked = self._asked
        chosen = before if before.get("measured") else {}
        self._before = before
        self._rates: dict[str, float] = dict(chosen.get("measured", {}))
        self._settings = asked.model_copy(
            update={k: chosen[k] for k in CHOSEN if chosen and getattr(asked, k) == "auto"}
        )
        try:
            self._engine = self._loaded()
        except JobError:
            if self._settings == asked:
                raise
            # What was chosen then cannot be had now: OpenVINO may be gone.
            self._settings, self._rates, self._before = asked, {}, {}
            self._engine = self._loaded()

    def _loaded(self) -> Engine:
        self._options = EngineOptions(
            self._settings, self._device, self._threads, self._statistics, self._expected_tokens
        )
        return load_engine(self._spec, self._options)

    def settle(self, probe: Probe, known: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Finds out how rows may be batched, or does what a worker of this kind has found out.

        Returns `describe()`. Raises JobError if the model cannot be scored as the job asks.
        """
        self._probe = probe
        before = known or self._before
        found = {key: before[key] for key in FOUND} if _same_engine(before, self._engine) else None
        self._engine.settle(probe, found)
        if self._rules() > self._allowed:
            raise JobError(
                f"model.name {self._spec.name}: the output was started by an earlier version, "
                "which let this model's answers depend on the rows in the same batch; now batches "
                f"are of {BATCHES[self._engine.batching]}, padded and marked as the tokenizer "
                "says, and an output never mixes answers: score into a new folder"
            )
        fixed = all(getattr(self._settings, key) != "auto" for key in CHOSEN)
        self._calibrated = bool(self._rates) or fixed or not self._large
        if self._device == "cuda" and self._large:
            self._rate = before.get("rate") or rough_rate(self._engine, probe)
        return self.describe()

    def score(
        self, tokens: Tokens, first: int, stop: int, go_on: Callable[[], None] = lambda: None
    ) -> Scored:
        """Scores rows of a tokenized unit; two threads may do so, see `THREADS`."""
        with self._turn:
            if not self._calibrated and len(tokens.ids) >= ENOUGH_TOKENS:
                self._calibrated = True
                self._engine, self._rates = calibrate(
                    self._engine, self._spec, self._options, tokens, self._probe
                )
        return scoring.score(self._engine, tokens, first, stop, go_on, self._turn)

    def describe(self) -> dict[str, Any]:
        """What was chosen, for the log and the run's record; tokens/s where measured."""
        return {
            "kind": self.kind,
            "engine": self._engine.name,
            "device": self._engine.device,
            "dtype": self._engine.dtype,
            "tokens_per_batch": self._engine.tokens_per_batch,
            "batching": self._engine.batching.value,
            "reason": self._engine.reason,
            "operators": self._engine.operators,
            "slower": self._slower,
            "kernels_missing": _kernels_missing(self._device),
            "measured": self._rates,
            "rate": self._rate,
        }

    def _rules(self) -> int:
        """The version of the rules for answers (`RULES`) that these answers come by.

        Before the first, rows of different lengths were always batched together, filled up
        on the right, and single texts had no token types.
        """
        batching, probe = self._engine.batching, self._probe
        if batching is Batching.PACKED:
            return int(probe.types_matter)
        return int(batching is not Batching.PADDED or probe.padding.left or probe.types_matter)


def _same_engine(before: Mapping[str, Any], engine: Engine) -> bool:
    """Whether what was found out is there, and of this engine."""
    return all(key in before for key in FOUND) and before["engine"] == engine.name


def kind_of(device: str, threads: int) -> str:
    """The kind of a worker, by which records keep what it chose.

    That is its processor, with the kernels for it that are there, and its threads.
    """
    return f"{_device_name(device)}, {threads} threads"


def find_device() -> Literal["cuda", "cpu"]:
    """What torch finds in this process: "cuda" or "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def record_choice(kinds: dict[str, dict[str, Any]], description: dict[str, Any]) -> dict[str, Any]:
    """Adds what a worker says of itself to what is known of each kind of worker, and logs it."""
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
    return kinds


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


def make_attention_stats(spec: ModelSpec, attention: Attention, threads: int) -> "AttentionStats":
    from bertbatch.engines.attention_stats import AttentionStats
    from bertbatch.model.token_kinds import token_classes
    from bertbatch.statistics.statistic import make_statistics

    statistics = make_statistics(attention.statistics)
    classes = token_classes(get_tokenizer(spec).python, statistics)
    return AttentionStats(statistics, classes, attention.queries, threads)


def _times_slower(device: str, dtype: str) -> float:
    """How many times slower than float32 what the job asks for is here; 1 if that is no matter."""
    from bertbatch.engines.precision import times_slower

    return times_slower(device, dtype)


def _kernels_missing(device: str) -> bool:
    """Whether the kernels for this CPU were not built."""
    from bertbatch.native.kernels import missing

    return device == "cpu" and missing()


@cache
def _device_name(device: str) -> str:
    import torch

    from bertbatch.native.build import version
    from bertbatch.native.kernels import find_kernels

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    amx = " AMX" if torch.cpu._is_amx_tile_supported() else ""
    kernels = find_kernels()
    own = f" kernels {kernels.level} {version()[:8]}" if kernels else ""
    return f"{processor()} {torch.backends.cpu.get_cpu_capability()}{amx}{own}"
