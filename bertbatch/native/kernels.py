"""The kernels as functions of tensors.

A library is loaded only if this processor has its instructions and if it was built from the
sources that are here. Every row's answer depends on that row alone, bit for bit.
"""

import ctypes
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertbatch.native.build import FOLDER, LEVELS, file_name, version
from bertbatch.native.threads import in_threads

log = logging.getLogger("bertbatch")

ACTIVATIONS = {"none": 0, "gelu": 1}
INT8_INPUTS = 32  # inputs of a layer in int8 are a multiple of it

_pointer, _long, _float = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
_LINEAR = [_pointer, _long, _long, _pointer, _pointer, _long, _pointer, ctypes.c_int, _pointer]
_STATISTICS = [_pointer, _long, *[_pointer] * 2, ctypes.c_int, _pointer]
_ATTENTION = [
    *[_pointer] * 3, _long, _pointer, *[_long] * 3, _float, _long, _pointer, *_STATISTICS, _pointer
]  # fmt: skip
_NORM = [_pointer, _long, _long, _pointer, _pointer, _float, _pointer]
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "version": (ctypes.c_char_p, []),
    "panel": (_long, []),
    "pack": (None, [_pointer, _long, _long, _pointer]),
    "linear": (None, _LINEAR),
    "attention_room": (_long, [_long, _long]),
    "attention": (None, _ATTENTION),
    "norm": (None, _NORM),
    "int8_steps": (_long, []),
    "packed_int8": (_long, [_long, _long]),
    "pack_int8": (None, [_pointer, _long, _long, _pointer]),
    "int8_room": (_long, [_long]),
    "linear_int8": (
        None,
        [_pointer, _long, _long, *[_pointer] * 4, _long, _pointer, ctypes.c_int, *[_pointer] * 2],
    ),
}
# What libraries for processors with products of bfloat16 have, too.
_BFLOAT16: dict[str, tuple[Any, list[Any]]] = {
    "packed_bfloat16": (_long, [_long, _long]),
    "pack_bfloat16": (None, [_pointer, _long, _long, _pointer]),
    "linear_room_bfloat16": (_long, [_long]),
    "linear_bfloat16": (None, [*_LINEAR, _pointer]),
    "attention_room_bfloat16": (_long, [_long, _long]),
    "attention_bfloat16": (None, _ATTENTION),
    "norm_bfloat16": (None, _NORM),
}


@dataclass(frozen=True)
class Watch:
    """What sums over the weights of attention need, and where they go.

    `kinds` float32 [4, tokens + 32 or more]: whether a key is of a kind, 1 or 0, the last the
    second segment, which begins at `seconds` int64 [sequences] (a place in the sequence).
    `counted` float32 [tokens]: whether a query counts. `over_keys`: whether sums over what keys
    receive are wanted. `sums` float32 [sequences, heads, SUMS]; `native/statistics.h` has their
    places.
    """

    kinds: np.ndarray
    counted: np.ndarray
    seconds: np.ndarray
    over_keys: bool
    sums: Tensor


class Kernels:
    """The kernels of one level, in float32, and in bfloat16 where the processor multiplies it.

    `panel`: outputs and the size of heads must be multiples of it. Biases, and LayerNorm's
    gain and shift, are float32 always.
    """

    def __init__(self, path: Path, level: str):
        """Raises OSError if it cannot be loaded, ValueError if it is of other sources."""
        self._library = ctypes.CDLL(str(path))
        self._declare(_FUNCTIONS)
        found = self._library.bertbatch_version().decode()
        if found != version():
            raise ValueError(f"{path} was built from other sources ({found}, here {version()})")
        self.level = level
        self.panel = int(self._library.bertbatch_panel())
        self.int8_steps = int(self._library.bertbatch_int8_steps())
        self.dtypes = [torch.float32]
        if "bf16" in "".join(LEVELS[level]):
            self._declare(_BFLOAT16)
            self.dtypes.append(torch.bfloat16)

    def _declare(self, functions: Mapping[str, tuple[Any, list[Any]]]) -> None:
        for name, (result, arguments) in functions.items():
            function = getattr(self._library, f"bertbatch_{name}", None)
            if function is None:
                raise ValueError(f"{self._library._name} has no function {name}")
            function.restype, function.argtypes = result, arguments

    def _function(self, name: str, dtype: torch.dtype) -> Callable[..., int]:
        suffix = "_bfloat16" if dtype == torch.bfloat16 else ""
        found: Callable[..., int] = getattr(self._library, f"bertbatch_{name}{suffix}")
        return found

    def has_linear(self, layer: nn.Linear) -> bool:
        """Whether the kernels can compute a layer."""
        return layer.weight.dtype in self.dtypes and layer.out_features % self.panel == 0

    def has_int8(self, layer: nn.Linear) -> bool:
        """Whether they can in int8."""
        whole = layer.in_features % INT8_INPUTS == 0 and layer.out_features % self.panel == 0
        return layer.weight.dtype == torch.float32 and whole

    def has_norm(self, norm: nn.LayerNorm) -> bool:
        """Whether the kernels can compute a LayerNorm."""
        whole = len(norm.normalized_shape) == 1 and norm.normalized_shape[0] % self.panel == 0
        affine = norm.weight is not None and norm.bias is not None
        return whole and affine and norm.weight.dtype in self.dtypes

    def has_attention(self, size: int, dtype: torch.dtype) -> bool:
        """Whether the kernels can compute heads of a size."""
        return size % self.panel == 0 and dtype in self.dtypes

    def pack(self, weight: Tensor) -> Tensor:
        """A weight [outputs, inputs] as `linear` reads it."""
        weight = weight.detach().contiguous()
        size = weight.numel()
        if weight.dtype == torch.bfloat16:
            size = self._library.bertbatch_packed_bfloat16(*weight.shape)
        packed = torch.empty(size, dtype=weight.dtype)
        self._function("pack", weight.dtype)(weight.data_ptr(), *weight.shape, packed.data_ptr())
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
        room = 0
        if x.dtype == torch.bfloat16:
            room = self._library.bertbatch_linear_room_bfloat16(x.shape[-1])
        function = self._function("linear", x.dtype)
        return _by_rows(function, x, (packed,), bias, activation, residual, room)

    def pack_int8(self, weight: Tensor) -> Tensor:
        """A weight int8 [outputs, inputs] as `linear_int8` reads it."""
        weight = weight.contiguous()
        size = self._library.bertbatch_packed_int8(*weight.shape)
        packed = torch.empty(size, dtype=torch.int8)
        self._library.bertbatch_pack_int8(weight.data_ptr(), *weight.shape, packed.data_ptr())
        return packed

    def linear_int8(
        self,
        x: Tensor,
        packed: Tensor,
        scales: Tensor,
        columns: Tensor,
        bias: Tensor,
        activation: str = "none",
        residual: Tensor | None = None,
    ) -> Tensor:
        """`linear` of rounded numbers: see `engines/int8.py`."""
        room = self._library.bertbatch_int8_room(x.shape[-1])
        function = self._library.bertbatch_linear_int8
        parts = (packed, scales, columns)
        return _by_rows(function, x, parts, bias, activation, residual, room)

    def norm(self, x: Tensor, gain: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        """LayerNorm of contiguous x [..., size]."""
        size = x.shape[-1]
        y = torch.empty_like(x)
        self._function("norm", x.dtype)(
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
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bounds: np.ndarray,
        scale: float,
        reach: int | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """Attention [tokens, heads, size] of sequences between bounds, int64 [sequences + 1].

        query, key and value [tokens, heads, size] may lie in one tensor, each token's side by side.
        `scale` is positive. Keys further from a query than `reach` are not attended. Fills the sums
        of `watch`, which knows no `reach`.
        """
        tokens, heads, size = query.shape
        dtype = query.dtype
        if any(x.stride() != (query.stride(0), size, 1) for x in (query, key, value)):
            query, key, value = (x.contiguous() for x in (query, key, value))
        out = torch.empty(tokens, heads, size, dtype=dtype)
        lengths = np.diff(bounds)
        function = self._function("attention", dtype)
        bytes_of_room = self._function("attention_room", dtype)

        def some(first: int, stop: int) -> None:
            if first == stop:
                return
            longest = int(lengths[first:stop].max())
            room = torch.empty(bytes_of_room(longest, size), dtype=torch.uint8)
            function(
                query.data_ptr(),
                key.data_ptr(),
                value.data_ptr(),
                query.stride(0),
                bounds[first:].ctypes.data,
                stop - first,
                heads,
                size,
                scale,
                longest if reach is None else min(reach, longest),
                out.data_ptr(),
                *_watched(watch, first),
                room.data_ptr(),
            )

        in_threads(len(lengths), some, lengths)
        return out


@cache
def find_kernels(level: str | None = None) -> Kernels | None:
    """The kernels of a level, by default the best that is here; None if there are none."""
    for one in [level] if level else levels()[::-1]:
        for folder in _folders():
            path = folder / file_name(one)
            if path.exists():
                try:
                    return Kernels(path, one)
                except (OSError, ValueError) as error:
                    log.debug("%s", error)
    return None


def missing() -> bool:
    """Whether kernels could be here, for this processor, and are not."""
    return sys.platform == "linux" and bool(levels()) and find_kernels() is None


def levels() -> list[str]:
    """The levels that this processor has the instructions for, the best last.

    No more than torch's own kernels use: a user may lower that with ATEN_CPU_CAPABILITY.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in ("AVX2", "AVX512"):
        return []
    best = "avx2"
    if capability == "AVX512":
        vnni = torch.cpu._is_vnni_supported()
        half = vnni and torch.cpu._is_avx512_bf16_supported()
        tiles = half and torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()
        best = "avx512" + ("-bfloat16" if half else "-vnni" if vnni else "")
        best = "amx" if tiles else best
    names = list(LEVELS)
    return names[: names.index(best) + 1]


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


def _watched(watch: Watch | None, first: int) -> list[int | None]:
    """The library's arguments for sequences from the first on."""
    if watch is None:
        return [None, 0, None, None, 0, None]
    return [
        watch.kinds.ctypes.data,
        watch.kinds.shape[1],
        watch.counted.ctypes.data,
        watch.seconds[first:].ctypes.data,
        watch.over_keys,
        watch.sums[first:].data_ptr(),
    ]


def _by_rows(
    function: Callable[..., Any],
    x: Tensor,
    parts: Sequence[Tensor],
    bias: Tensor,
    activation: str,
    residual: Tensor | None,
    room: int,
) -> Tensor:
    """A linear layer of contiguous x [..., inputs], by a function of the library.

    `parts` are its weights, as the function takes them; `room` the bytes that it works with, if
    any.
    """
    inputs, outputs, each = x.shape[-1], len(bias), x.element_size()
    y = torch.empty(*x.shape[:-1], outputs, dtype=x.dtype)

    def some(first: int, stop: int) -> None:
        work = torch.empty(room, dtype=torch.uint8)
        function(
            x.data_ptr() + each * first * inputs,
            stop - first,
            inputs,
            *(part.data_ptr() for part in (*parts, bias)),
            outputs,
            y.data_ptr() + each * first * outputs,
            ACTIVATIONS[activation],
            None if residual is None else residual.data_ptr() + each * first * outputs,
            *([work.data_ptr()] if room else []),
        )

    in_threads(x.numel() // inputs, some)
    return y
