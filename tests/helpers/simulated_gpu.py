"""A GPU that is none, for tests where there is no GPU: its tensors are on the CPU and say "cuda".

What it checks is what can go wrong without knowing it: a tensor that was left on the other device,
an answer that is read before its copy is done, and what kernels refuse: head sizes, precisions,
old GPUs. What it cannot check are a real kernel's numbers, speed and memory: `make gpu-check` does,
where there is a GPU. `torch.cuda` is replaced as far as the engine asks for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.attention.varlen
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)  # from one device to the other
INDEXING = (
    *(torch.Tensor.__getitem__, torch.Tensor.__setitem__),
    *(aten.index.Tensor, aten.index_put_.default),
)
# Not taken apart: a build without CUDA could not.
WHOLE = (
    *(*INDEXING[:2], torch.Tensor.contiguous, torch.Tensor.__invert__),
    scaled_dot_product_attention,
)


class OnGpu(torch.Tensor):
    """A tensor on the GPU of its thread; its numbers are in `held`."""

    held: torch.Tensor
    gpu: "SimulatedGpu"

    @staticmethod
    def __new__(cls, held: torch.Tensor, gpu: "SimulatedGpu") -> "OnGpu":
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device="cuda"
        )
        made.held, made.gpu = held, gpu
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        (gpu, *_) = (x.gpu for x in tree_flatten((args, kwargs))[0] if isinstance(x, OnGpu))
        return gpu.operator(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.held!r})"


class SimulatedGpu(TorchFunctionMode):
    """Runs every operator on the CPU, and raises where a GPU of this capability would.

    An index out of range ends its use, as a kernel's assert does. `hook` is called with each
    kernel's name before it runs, and may raise.
    """

    def __init__(self, capability: tuple[int, int] = (9, 0)):
        super().__init__()
        self.capability = capability
        self.lost = ""  # why no kernel runs any more
        self.hook: Callable[[str], None] = lambda name: None
        self.kernels: list[str] = []
        self._copies: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What a build without CUDA cannot even begin: making tensors there, indexing them."""
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.pin_memory:
            return args[0]
        if func is torch._has_compatible_shallow_copy_type:  # of a tensor here and one there
            return False
        if kwargs.pop("pin_memory", False):
            assert not _is_cuda(kwargs.get("device")), "only the CPU's memory can be pinned"
        if func is torch.Tensor.to and any(map(_is_cuda, (*args[1:], kwargs.get("device")))):
            held = args[0].held if isinstance(args[0], OnGpu) else args[0]
            kwargs |= {"device": "cpu"} if "device" in kwargs else {}
            given = ["cpu" if _is_cuda(x) else x for x in args[1:]]
            return self._made(func, held, *given, **kwargs)
        if func is torch.Tensor.cuda:
            return self._made(torch.Tensor.to, args[0], "cpu")
        if _is_cuda(kwargs.get("device")):
            if any(isinstance(x, OnGpu) for x in tree_flatten(args)[0]):
                return func(*args, **kwargs)
            return self._made(func, *args, **{**kwargs, "device": "cpu"})
        if func in WHOLE and any(isinstance(x, OnGpu) for x in tree_flatten(args)[0]):
            return self.operator(func, args, kwargs)
        return func(*args, **kwargs)

    def _made(self, func: Any, *args: Any, **kwargs: Any) -> OnGpu:
        self.kernel(func.__name__)
        made = func(*args, **kwargs)
        return OnGpu(made.clone() if made is args[0] else made, self)

    def operator(self, func: Any, args: Any, kwargs: Any) -> Any:
        self.kernel(str(func))
        inside = (args[0], *args[2:]) if func in INDEXING else args  # indices may be on the CPU
        if func not in COPIES:
            self._check_devices(func, inside, kwargs)
        if func is aten.copy_.default and not isinstance(args[0], OnGpu):
            return self._copied_back(args[0], args[1].held, len(args) > 2 and args[2])
        to_cpu = str(kwargs.get("device") or "cuda").startswith("cpu")
        ours = {id(x.held): x for x in tree_flatten((args, kwargs))[0] if isinstance(x, OnGpu)}
        args, kwargs = tree_map_only(OnGpu, lambda x: x.held, (args, kwargs))
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        try:
            out = self._run(func, args, kwargs)
        except IndexError:
            self.lost = "CUDA error: device-side assert triggered"
            raise torch.AcceleratorError(self.lost) from None
        if to_cpu:
            self.synchronize()
            return out.clone()
        return tree_map_only(
            torch.Tensor, lambda x: ours[id(x)] if id(x) in ours else OnGpu(x, self), out
        )

    def kernel(self, name: str) -> None:
        """What happens wherever the GPU is used."""
        if self.lost:
            raise torch.AcceleratorError(self.lost)
        self.kernels.append(name)
        self.hook(name)

    @staticmethod
    def _check_devices(func: Any, args: Any, kwargs: Any) -> None:
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        if any(not isinstance(x, OnGpu) and x.dim() for x in tensors):
            raise RuntimeError(
                f"{func}: Expected all tensors to be on the same device, but found at least two "
                "devices, cuda:0 and cpu!"
            )

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is torch.ops.torch_attn._varlen_attn.default:
            return self._varlen(*args, **kwargs)
        return func(*args, **kwargs)

    def _varlen(
        self, query: Any, key: Any, value: Any, bounds: Any, _: Any, longest: int, *rest: Any,
        **more: Any,
    ) -> Any:  # fmt: skip
        """What the kernel for sequences of different lengths computes, and what it refuses."""
        if self.capability < (8, 0):
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
        if query.dtype not in (torch.float16, torch.bfloat16):
            raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
        if query.shape[-1] % 8:
            raise RuntimeError("head_size must be a multiple of 8, this is ensured by padding!")
        assert bounds.dtype == torch.int32
        assert bounds[0] == 0
        assert bounds[-1] == len(query)
        assert longest == np.diff(bounds.numpy()).max()
        scale = more.get("scale", rest[2] if len(rest) > 2 else None) or query.shape[-1] ** -0.5
        out = torch.empty_like(query)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            q, k, v = (x[start:stop].transpose(0, 1).float() for x in (query, key, value))
            weights = torch.softmax(q @ k.mT * scale, -1)
            out[start:stop] = (weights @ v).transpose(0, 1).to(query.dtype)
        return out, torch.empty(0), torch.empty(0)

    def _copied_back(self, to: torch.Tensor, held: torch.Tensor, later: bool) -> torch.Tensor:
        """A copy that is under way holds nothing yet."""
        if not later:
            return to.copy_(held)
        to.fill_(float("nan"))
        self._copies.append((to, held))
        return to

    def synchronize(self, *_: Any) -> None:
        if self.lost:
            raise torch.AcceleratorError(self.lost)
        for to, held in self._copies:
            to.copy_(held)
        self._copies.clear()


def _is_cuda(device: Any) -> bool:
    known = isinstance(device, str | torch.device)
    return known and torch.device(device).type == "cuda"


@contextmanager
def simulated(capability: tuple[int, int] = (9, 0)) -> Iterator[SimulatedGpu]:
    """A machine with a simulated GPU, for this thread."""
    gpu = SimulatedGpu(capability)
    properties = SimpleNamespace(major=capability[0], minor=capability[1], total_memory=80 << 30)
    event = SimpleNamespace(record=lambda: None, synchronize=gpu.synchronize)
    replaced = mock.patch.multiple(
        torch.cuda,
        is_available=lambda: True,
        current_device=lambda: 0,
        get_device_properties=lambda *_: properties,
        get_device_capability=lambda *_: capability,
        get_device_name=lambda *_: "Simulated GPU",
        _check_bf16_tensor_supported=lambda *_: True,  # by emulation, also on old ones
        empty_cache=gpu.synchronize,
        synchronize=gpu.synchronize,
        Event=lambda *_: event,
    )
    with replaced, torch.inference_mode(), gpu:
        yield gpu
