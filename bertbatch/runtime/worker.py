"""A model worker: one loaded engine, the same in every runner."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from bertbatch.engines import scoring
from bertbatch.engines.batching import Batching
from bertbatch.engines.calibration import ENOUGH_TOKENS, calibrate, rough_rate
from bertbatch.engines.engine import Engine, EngineOptions, load_engine, settings_for
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
from bertbatch.runtime.kinds import BATCHES, kernels_missing, kind_of, times_slower

if TYPE_CHECKING:
    from bertbatch.engines.attention_stats import AttentionStats

# That score on a worker. On a GPU the first batch of the next rows is started before the last
# answer of these is fetched; a CPU computes where a batch is started.
THREADS = {"cuda": 2, "cpu": 1}
CHOSEN = ("engine", "dtype", "tokens_per_batch")  # what a calibration decides
FOUND = ("dtype", "batching", "reason", "operators")  # what is tried once for each kind of worker


class ModelWorker:
    """Loads the model, once; scores when it is settled. If the input is large, calibrates on
    the first unit that is, too.

    `known` is what earlier runs on this output, or other workers, found out and chose, by kind
    of worker: then that holds; `rules` are the output's; `model` is what its columns begin with.
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
        rules: Mapping[str, int] = RULES,
        expected_tokens: int = 0,
        model: str = "",
    ):
        settings = settings_for(spec, settings)
        device = "cpu" if spec.onnx else device
        self._spec = spec
        self._allowed = rules.get("answers", 0)
        self._threads = threads
        self._device = device
        self._large = large
        self._expected_tokens = expected_tokens
        self.kind = kind_of(device, threads, model)
        self._asked = settings.model_copy(update={"engine": "torch"}) if attention else settings
        self._statistics = make_attention_stats(spec, attention, threads) if attention else None
        self._turn = Lock()  # to start batches
        self._rate = 0.0  # tokens/s, roughly; measured where it decides how large units are
        self._slower = times_slower(device, settings.dtype)
        self._load(known.get(self.kind, {}))

    @classmethod
    def of(cls, context: Context, model: str, device: str, threads: int) -> "ModelWorker":
        """A worker for one of a run's models. Raises JobError if it cannot be loaded."""
        return cls(
            spec=context.specs[model],
            settings=context.job.each_model[model],
            device=device,
            threads=threads,
            known=context.known,
            large=context.large,
            attention=context.job.attention,
            rules=context.rules,
            expected_tokens=context.expected_tokens,
            model=model,
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
        first, stop = tokens.sequences(first, stop)
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
            "kernels_missing": kernels_missing(self._device),
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


class ModelWorkers:
    """A worker for each of a run's models, in one process: all of them score the same rows.

    Raises JobError if a model cannot be loaded.
    """

    def __init__(self, context: Context, device: str, threads: int):
        self._each = {
            model: ModelWorker.of(context, model, device, threads) for model in context.specs
        }
        self.kinds = tuple(worker.kind for worker in self._each.values())

    def settle(
        self, probes: Mapping[str, Probe], known: Mapping[str, Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """As `ModelWorker.settle`; `known` by kind of worker."""
        return [
            worker.settle(probes[model], known.get(worker.kind))
            for model, worker in self._each.items()
        ]

    def score(
        self,
        tokens: Mapping[str, Tokens],
        first: int,
        stop: int,
        go_on: Callable[[], None] = lambda: None,
    ) -> dict[str, Scored]:
        """Scores rows of a tokenized unit, one model after the other; on as many `THREADS`."""
        return {
            model: worker.score(tokens[model], first, stop, go_on)
            for model, worker in self._each.items()
        }

    def describe(self) -> list[dict[str, Any]]:
        """What was chosen for each."""
        return [worker.describe() for worker in self._each.values()]


def _same_engine(before: Mapping[str, Any], engine: Engine) -> bool:
    """Whether what was found out is there, and of this engine."""
    return all(key in before for key in FOUND) and before["engine"] == engine.name


def make_attention_stats(spec: ModelSpec, attention: Attention, threads: int) -> "AttentionStats":
    from bertbatch.engines.attention_stats import AttentionStats
    from bertbatch.model.token_kinds import token_classes
    from bertbatch.statistics.statistic import make_statistics

    statistics = make_statistics(attention.statistics)
    classes = token_classes(get_tokenizer(spec).python, statistics)
    return AttentionStats(statistics, classes, attention.queries, threads)
