"""The kernels as functions of tensors in float32.

A library is loaded only if this processor has its instructions and if it was built from the
sources that are here. Every row's answer depends on that row alone, bit for bit.
"""

import ctypes
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bertbatch.native.build import FOLDER, LEVELS, file_name, version

log = logging.getLogger("bertbatch")

ACTIVATIONS = {"none": 0, "gelu": 1}
# The level that torch's own kernels use here; a user may lower it with ATEN_CPU_CAPABILITY.
CAPABILITIES = {"AVX2": "avx2", "AVX512": "avx512"}
ALONE = 64  # rows that one thread computes without asking others for help

_pointer, _long, _float = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_FUNCTIONS: dict[str, tuple[type | None, list[type]]] = {
    "version": (ctypes.c_char_p, []),
    "panel": (_long, []),
    "pack": (None, [_pointer, _long, _long, _pointer]),
    "linear": (
        None,
        [_pointer, _long, _long, _pointer, _pointer, _long, _pointer, ctypes.c_int, _pointer],
    ),
    "attention_room": (_long, [_long, _long]),
    "attention": (
        None,
        [*[_pointer] * 3, _long, _pointer, *[_long] * 3, _float, _pointer, _pointer],
    ),
    "norm": (None, [_pointer, _long, _long, _pointer, _pointer, _float, _pointer]),
}


class Library:
    """The kernels of one level. `panel`: outputs and heads must be multiples of it."""

    def __init__(self, path: Path, level: str):
        """Raises OSError if it cannot be loaded, ValueError if it is of other sources."""
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(library, f"bertbatch_{name}", None)
            if function is None:
                raise ValueError(f"{path} has no function {name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)
        found = self._version().decode()
        if found != version():
            raise ValueError(f"{path} was built from other sources ({found}, here {version()})")
        self.level = level
        self.panel = int(self._panel())

    _version: Callable[..., bytes]
    _panel: Callable[..., int]
    _pack: Callable[..., None]
    _linear: Callable[..., None]
    _attention_room: Callable[..., int]
    _attention: Callable[..., None]
    _norm: Callable[..., None]

    def has_linear(self, layer: nn.Linear) -> bool:
        """Whether the kernels can compute a layer."""
        return layer.weight.dtype == torch.float32 and layer.out_features % self.panel == 0

    def has_norm(self, norm: nn.LayerNorm) -> bool:
        whole = len(norm.normalized_shape) == 1 and norm.normalized_shape[0] % self.panel == 0
        affine = norm.weight is not None and norm.bias is not None
        return whole and affine and norm.weight.dtype == torch.float32

    def has_attention(self, size: int, dtype: torch.dtype) -> bool:
        """Whether the kernels can compute heads of a size."""
        return size % self.panel == 0 and dtype == torch.float32

    def pack(self, weight: Tensor) -> Tensor:
        """A weight [outputs, inputs] as `linear` reads it."""
        weight = weight.detach().contiguous()
        packed = torch.empty(weight.numel())
        self._pack(weight.data_ptr(), *weight.shape, packed.data_ptr())
        return packed

    def linear(
        self,
        x: Tensor,
        packed: Tensor,
        bias: Tensor,
        activation: str = "none",
        residual: Tensor | None = None,
    ) -> Tensor:
        """act(x Wᵀ + b), or x Wᵀ + b + residual, of contiguous x [..., inputs]."""
        inputs, outputs = x.shape[-1], len(bias)
        rows = x.numel() // inputs
        y = torch.empty(*x.shape[:-1], outputs)
        kind, four = ACTIVATIONS[activation], 4  # bytes of a float

        def some(first: int, stop: int) -> None:
            self._linear(
                x.data_ptr() + four * first * inputs,
                stop - first,
                inputs,
                packed.data_ptr(),
                bias.data_ptr(),
                outputs,
                y.data_ptr() + four * first * outputs,
                kind,
                None if residual is None else residual.data_ptr() + four * first * outputs,
            )

        _in_threads(rows, some)
        return y

    def norm(self, x: Tensor, gain: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        """LayerNorm of contiguous x [..., size]."""
        size = x.shape[-1]
        y = torch.empty_like(x)
        self._norm(
            x.data_ptr(),
            x.numel() // size,
            size,
            gain.data_ptr(),
            shift.data_ptr(),
            epsilon,
            y.data_ptr(),
        )
        return y

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, bounds: np.ndarray, scale: float
    ) -> Tensor:
        """Attention [tokens, heads, size] of sequences between bounds, int64 [sequences + 1].

        query, key and value [tokens, heads, size] may lie in one tensor, each token's side by side.
        """
        tokens, heads, size = query.shape
        if any(x.stride() != (query.stride(0), size, 1) for x in (query, key, value)):
            query, key, value = (x.contiguous() for x in (query, key, value))
        out = torch.empty(tokens, heads, size)
        lengths = np.diff(bounds)

        def some(first: int, stop: int) -> None:
            if first == stop:
                return
            longest = int(lengths[first:stop].max())
            room = torch.empty(self._attention_room(longest, size))
            self._attention(
                query.data_ptr(),
                key.data_ptr(),
                value.data_ptr(),
                query.stride(0),
                bounds[first:].ctypes.data,
                stop - first,
                heads,
                size,
                scale,
                out.data_ptr(),
                room.data_ptr(),
            )

        _in_threads(len(lengths), some, lengths)
        return out


@cache
def library(level: str | None = None) -> Library | None:
    """The kernels of a level, by default the best for this processor; None if there are none."""
    level = level or CAPABILITIES.get(torch.backends.cpu.get_cpu_capability())
    if level is None:
        return None
    for folder in _folders():
        path = folder / file_name(level)
        if path.exists():
            try:
                return Library(path, level)
            except (OSError, ValueError) as error:
                log.debug("%s", error)
    return None


def levels() -> list[str]:
    """The levels that this processor has the instructions for."""
    best = CAPABILITIES.get(torch.backends.cpu.get_cpu_capability())
    names = list(LEVELS)
    return names[: names.index(best) + 1] if best else []


def _folders() -> Iterator[Path]:
    """Where libraries may lie: beside this file, and where the package is installed.

    On a cluster the package may have come with the job, from a machine that cannot build them.
    """
    yield FOLDER
    try:
        installed = distribution("bertbatch").locate_file("bertbatch/native")
    except PackageNotFoundError:
        return
    yield Path(str(installed))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="bertbatch-kernels")


def _in_threads(
    count: int, some: Callable[[int, int], None], sizes: np.ndarray | None = None
) -> None:
    """Calls `some` for ranges that make up `count`, in as many threads as torch uses.

    `sizes` [count]: what each costs; equal if None.
    """
    threads = torch.get_num_threads()
    total = count if sizes is None else int(sizes.sum())
    if threads == 1 or total <= ALONE:
        some(0, count)
        return
    ends = np.arange(1, threads + 1) * total // threads
    edges = ends if sizes is None else np.searchsorted(np.cumsum(sizes), ends, "right")
    edges = np.concatenate([[0], edges])
    edges[-1] = count
    others = [
        _pool(threads - 1).submit(some, int(first), int(stop))
        for first, stop in pairwise(edges[1:])
    ]
    try:
        some(0, int(edges[1]))
    finally:
        for other in others:
            other.result()
