"""Where the forward pass's time goes: what lies between it and the machine's matrix rate.

The torch engine on one thread, as a worker has it, operator by operator. Each is held against the
least that it could take, its products at the matrix rate, and against simpler operators on the same
tensors at the same moment, which show what of the difference could be had.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.attention import loaded_engine
from benchmarks.compare import matrix_rates
from benchmarks.corpora import WORKLOADS, generated
from benchmarks.models import NAMES, flops, model_folder
from benchmarks.report import Report
from bertbatch.engines.scoring import score
from bertbatch.native.kernels import Kernels

ROWS = {"short": 2000, "mixed": 400, "long": 100}
LINEAR, ATTENTION, NORM = "linear layers", "attention", "LayerNorm"
GATHERS, REST = "gathers and copies", "everything else"
KINDS = {
    "mkldnn._linear_pointwise": LINEAR,
    "aten.addmm": LINEAR,
    "aten.scaled_dot_product_attention": ATTENTION,
    "aten.baddbmm": ATTENTION,
    "aten.softmax": ATTENTION,
    "aten.bmm": ATTENTION,
    "aten.layer_norm": NORM,
    **dict.fromkeys(("aten.index_select", "aten.cat", "aten.clone", "aten.copy_"), GATHERS),
}
SIMPLER = {
    LINEAR: "its product alone, without bias, GELU and residual",
    ATTENTION: "its two batched products alone, without softmax",
    NORM: "a copy of its input",
    GATHERS: "a copy of its output",
}


class Timing(TorchDispatchMode):
    """Seconds and operations of every operator by its kind, and the simpler one's seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()
        self.simpler: Counter[str] = Counter()
        self._weights: dict[tuple[int, int], Tensor] = {}
        self._in_kernels = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._in_kernels:
            return func(*args, **(kwargs or {}))
        began = time.perf_counter()
        answer = func(*args, **(kwargs or {}))
        took = time.perf_counter() - began
        kind = KINDS.get(str(func).rpartition(".")[0].removesuffix(".binary"), REST)
        self.seconds[kind] += took
        if kind == LINEAR:
            x = args[1] if "addmm" in str(func) else args[0]
            self._product(x, answer.shape[-1])
        elif "scaled_dot" in str(func):
            q, k, v = (t.reshape(-1, *t.shape[2:]) for t in args[:3])
            self.operations[kind] += 4 * q.numel() * k.shape[1]
            self._time(kind, lambda: torch.bmm(torch.bmm(q, k.mT), v))
        elif "bmm" in str(func):
            a, b = args[-2:]
            self.operations[kind] += 2 * a.numel() * b.shape[-1]
            self._time(kind, lambda: torch.bmm(a, b))
        elif kind in (NORM, GATHERS):
            like = args[0] if kind == NORM else answer
            self._time(kind, like.clone)
        return answer

    @contextmanager
    def of_kernels(self) -> Iterator[None]:
        """The project's own kernels are timed, too: torch does not see them."""
        with (
            patch.object(Kernels, "linear", self._timed(LINEAR, Kernels.linear)),
            patch.object(Kernels, "linear_int8", self._timed(LINEAR, Kernels.linear_int8)),
            patch.object(Kernels, "attention", self._timed(ATTENTION, Kernels.attention)),
            patch.object(Kernels, "norm", self._timed(NORM, Kernels.norm)),
        ):
            yield

    def _timed(self, kind: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def timed(kernels: Kernels, x: Tensor, *rest: Any, **named: Any) -> Tensor:
            self._in_kernels = True
            began = time.perf_counter()
            answer = function(kernels, x, *rest, **named)
            self.seconds[kind] += time.perf_counter() - began
            self._in_kernels = False
            if kind == LINEAR:
                self._product(x, answer.shape[-1])
            elif kind == NORM:
                self._time(kind, x.clone)
            else:
                bounds = rest[2]
                lengths = bounds[1:] - bounds[:-1]
                self.operations[kind] += 4 * int((lengths**2).sum()) * x.shape[1] * x.shape[2]
            return answer

        return timed

    def _product(self, x: Tensor, outputs: int) -> None:
        x = x.reshape(-1, x.shape[-1])
        shape = (x.shape[1], outputs)
        weight = self._weights.setdefault(shape, torch.ones(shape, dtype=x.dtype))
        self.operations[LINEAR] += 2 * x.numel() * outputs
        self._time(LINEAR, lambda: torch.mm(x, weight))

    def _time(self, kind: str, simpler: Callable[[], Tensor]) -> None:
        self._in_kernels = True
        began = time.perf_counter()
        simpler()
        self.simpler[kind] += time.perf_counter() - began
        self._in_kernels = False


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.profile", description=__doc__)
    parser.add_argument("--model", choices=NAMES, default="minilm")
    parser.add_argument("--workload", choices=WORKLOADS, default="mixed")
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = model_folder(options.model)
    rows = options.rows or ROWS[options.workload]
    engine, tokens = loaded_engine(str(folder), list(islice(generated(options.workload), rows)))
    rate = matrix_rates()[engine.dtype]

    def once() -> float:
        began = time.perf_counter()
        score(engine, tokens, 0, rows)
        return time.perf_counter() - began

    once()
    plain = min(once() for _ in range(3))
    timing = Timing()
    with timing.of_kernels(), timing:
        once()
    operations = flops(folder, tokens.lengths.tolist())
    least = operations / rate
    table = []
    for kind, seconds in timing.seconds.most_common():
        work, simpler = timing.operations[kind], timing.simpler[kind]
        table.append(
            [
                *(kind, f"{seconds / plain:.1%}"),
                f"{work / seconds / 1e9:,.0f}" if work else "",
                f"{(seconds - work / rate) / plain:.1%}",
                f"{SIMPLER[kind]}: {seconds / simpler:.2f} times" if simpler else "",
            ]
        )
    report = Report("Where the forward pass's time goes")
    report.lines(f"- matrix products of one thread: {rate / 1e9:,.0f} GFLOP/s in {engine.dtype}")
    speed = f"{len(tokens.ids) / plain:,.0f} tokens/s, {operations / plain / 1e9:,.0f} GFLOP/s"
    report.table(
        f"{options.workload}, {options.model}, {rows:,} rows: {speed}, {least / plain:.1%} of the "
        "matrix rate",
        ("kind", "of the time", "GFLOP/s", "above its least", "against simpler operators"),
        table,
    )


if __name__ == "__main__":
    main()
