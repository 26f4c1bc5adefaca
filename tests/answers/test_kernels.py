"""The kernels for CPUs compute what torch computes in float64, at every size, in any company."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from bertbatch.native import build
from bertbatch.native import kernels as native
from bertbatch.native.kernels import Kernels, find_kernels, levels

# How far results may be: as a share of each, as a share of the largest.
NEAR = {torch.float32: (0.0, 1e-5), torch.bfloat16: (2**-8, 2e-3)}
HERE = [level for level in levels() if find_kernels(level)]
SEEDS = st.integers(0, 2**31)

needed = pytest.mark.skipif(not HERE, reason="no kernels were built for this processor")
at_each_level = pytest.mark.parametrize(
    ("level", "dtype"), [(level, dtype) for level in HERE for dtype in find_kernels(level).dtypes]
)


def kernels(level: str) -> Kernels:
    found = find_kernels(level)
    assert found
    return found


def random(
    *shape: int, seed: int, factor: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (factor * made).to(dtype)


def check_near(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    of_each, of_largest = NEAR[got.dtype]
    allowed = of_each * wanted.abs() + of_largest * max(float(wanted.abs().max()), 1)
    assert bool(((got - wanted).abs() <= allowed).all())


@needed
@at_each_level
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 450), inputs=st.integers(1, 900), panels=st.integers(1, 5), seed=SEEDS,
    follows=st.sampled_from(["none", "gelu", "residual"]), threads=st.integers(1, 3),
)  # fmt: skip
def test_linear_layers(level, dtype, rows, inputs, panels, seed, follows, threads):
    found = kernels(level)
    outputs = panels * found.panel
    x = random(rows, inputs, seed=seed, dtype=dtype)
    weight = random(outputs, inputs, seed=seed + 1, factor=inputs**-0.5, dtype=dtype)
    bias = random(outputs, seed=seed + 2)
    residual = random(rows, outputs, seed=seed + 3, dtype=dtype)
    wanted = linear(x.double(), weight.double(), bias.double())
    packed = found.pack(weight)
    torch.set_num_threads(threads)
    try:
        if follows == "residual":
            check_near(found.linear(x, packed, bias, residual=residual), wanted + residual)
        else:
            got = found.linear(x, packed, bias, follows)
            check_near(got, gelu(wanted) if follows == "gelu" else wanted)
            row = seed % rows  # alone it is the same, to the bit
            alone = found.linear(x[row : row + 1], packed, bias, follows)
            assert torch.equal(alone[0], got[row])
    finally:
        torch.set_num_threads(1)


@needed
@at_each_level
@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 140), min_size=1, max_size=7), heads=st.integers(1, 4),
    panels=st.integers(1, 3), seed=SEEDS, factor=st.sampled_from([0.1, 1.0, 2.0]),
    together=st.booleans(), threads=st.integers(1, 3),
    reach=st.one_of(st.none(), st.integers(0, 140)),
)  # fmt: skip
def test_attention(level, dtype, lengths, heads, panels, seed, factor, together, threads, reach):
    found = kernels(level)
    size = panels * found.panel
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    whole = random(int(bounds[-1]), 3 * heads * size, seed=seed, factor=factor, dtype=dtype)
    query, key, value = (x.view(-1, heads, size) for x in whole.split(heads * size, 1))
    if not together:
        query, key, value = (x.contiguous() for x in (query, key, value))
    torch.set_num_threads(threads)
    try:
        got = found.attention(query, key, value, bounds, size**-0.5, reach)
        for first, stop in pairwise(bounds):
            some = [x[first:stop].transpose(0, 1).double() for x in (query, key, value)]
            place = torch.arange(stop - first)
            near = (place - place[:, None]).abs() <= (stop if reach is None else reach)
            wanted = scaled_dot_product_attention(*some, attn_mask=near, scale=size**-0.5)
            check_near(got[first:stop], wanted.transpose(0, 1))
            some = [x[first:stop] for x in (query, key, value)]
            alone = found.attention(*some, np.array([0, stop - first]), size**-0.5, reach)
            assert torch.equal(alone, got[first:stop])
    finally:
        torch.set_num_threads(1)


@needed
@at_each_level
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 30), panels=st.integers(1, 40), seed=SEEDS, shift=st.floats(-50, 50))
def test_layer_norm(level, dtype, rows, panels, seed, shift):
    found = kernels(level)
    size = panels * found.panel
    x = (random(rows, size, seed=seed) + shift).to(dtype)
    gain, offset = random(size, seed=seed + 1), random(size, seed=seed + 2)
    wanted = layer_norm(x.double(), (size,), gain.double(), offset.double(), 1e-12)
    got = found.norm(x, gain, offset, 1e-12)
    # With a large mean float32 itself has fewer digits left.
    allowed = 1e-5 * (1 + abs(shift)) * (gain.abs().max() + 1) + NEAR[dtype][0] * wanted.abs()
    assert bool(((got - wanted).abs() <= allowed).all())


@needed
@at_each_level
def test_gelu_everywhere(level, dtype):
    """From where it is zero to where it is the identity, and of what is not a number."""
    found = kernels(level)
    x = torch.linspace(-30, 30, 100_001).repeat(found.panel, 1).T.contiguous().to(dtype)
    eye = found.pack(torch.eye(found.panel, dtype=dtype))
    got = found.linear(x, eye, torch.zeros(found.panel), "gelu")
    wanted = gelu(x.double())
    near = {torch.float32: 1e-5, torch.bfloat16: 1e-4 + 2**-8 * wanted.abs()}[dtype]
    assert bool(((got - wanted).abs() <= near * x.abs().clamp(1)).all())
    odd = torch.full((1, found.panel), float("nan"), dtype=dtype)
    assert found.linear(odd, eye, torch.zeros(found.panel), "gelu").isnan().all()


@needed
@at_each_level
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_what_is_not_a_number_stays_in_its_sequence(level, dtype, where):
    found = kernels(level)
    size = found.panel
    names = ("query", "key", "value")
    parts = {name: random(40, 2, size, seed=i, dtype=dtype) for i, name in enumerate(names)}
    plain = found.attention(*parts.values(), np.array([0, 15, 40]), 1.0)
    parts[where][3, 0, 1] = float("nan")
    got = found.attention(*parts.values(), np.array([0, 15, 40]), 1.0)
    assert torch.equal(got[15:], plain[15:])
    assert torch.equal(got[:15, 1], plain[:15, 1])
    assert got[:15, 0].isnan().any()
    if where == "query":
        assert got[3, 0].isnan().all()


@needed
@pytest.mark.parametrize("level", HERE)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 300), blocks=st.integers(1, 30), panels=st.integers(1, 5), seed=SEEDS,
    follows=st.sampled_from(["none", "gelu", "residual"]), threads=st.integers(1, 3),
    extreme=st.booleans(),
)  # fmt: skip
def test_int8(level, rows, blocks, panels, seed, follows, threads, extreme):
    """Exact sums of rounded numbers, also where all are at their largest."""
    found = kernels(level)
    inputs, outputs = 32 * blocks, panels * found.panel
    x, weight = random(rows, inputs, seed=seed), random(outputs, inputs, seed=seed + 1)
    if extreme:
        x, weight = x.sign().clamp(0), weight.sign()
    weight = (127 * weight / weight.abs().amax(1, keepdim=True).clamp(1e-8)).round()
    scales, bias = random(outputs, seed=seed + 2).abs() / 1000, random(outputs, seed=seed + 3)
    residual = random(rows, outputs, seed=seed + 4)
    columns = (weight.double() * scales[:, None]).sum(1).float()
    packed = found.pack_int8(weight.to(torch.int8))
    parts = (packed, scales, columns, bias)
    least, most = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    step = (most - least).clamp(min=1e-8) / found.int8_steps
    steps = (x.double() * (1 / step) - least / step).round()
    wanted = linear(steps, weight.double()) * scales * step + least * columns + bias
    # A quotient between two steps may be rounded to either.
    allowed = 1e-4 * wanted.abs().max() + 4 * 127 * scales.max() * step + 1e-4
    torch.set_num_threads(threads)
    try:
        got = found.linear_int8(x, *parts, residual=residual if follows == "residual" else None)
        after = residual if follows == "residual" else 0
        assert bool(((got - wanted - after).abs() <= allowed).all())
        if follows == "gelu":
            activated = found.linear_int8(x, *parts, "gelu")
            near = 1e-4 * got.abs().clamp(1)
            assert bool(((activated - gelu(got.double())).abs() <= near).all())
        row = seed % rows  # alone it is the same, to the bit
        alone = found.linear_int8(x[row : row + 1], *parts)
        assert torch.equal(alone[0], (found.linear_int8(x, *parts))[row])
        x[row, seed % inputs] = [float("nan"), float("inf"), -float("inf")][seed % 3]
        odd = found.linear_int8(x, *parts)
        assert odd[row].isnan().all()
        others = torch.arange(rows) != row
        assert torch.equal(odd[others], found.linear_int8(x[others], *parts))
    finally:
        torch.set_num_threads(1)


@needed
def test_kernels_of_other_sources_are_not_loaded(tmp_path, monkeypatch):
    path = tmp_path / build.file_name(HERE[0])
    shutil.copy(native.FOLDER / path.name, path)
    Kernels(path, HERE[0])
    monkeypatch.setattr(native, "version", lambda: "other")
    with pytest.raises(ValueError, match="built from other sources"):
        Kernels(path, HERE[0])
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    with pytest.raises(OSError, match="broken"):
        Kernels(broken, HERE[0])


@needed
def test_kernels_come_from_the_installed_package(tmp_path, monkeypatch):
    """A package that came with a job, from a machine without a compiler, has none itself."""
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    found = native.find_kernels.__wrapped__(HERE[0])
    assert found is not None
    monkeypatch.setattr(native, "distribution", _not_installed)
    assert native.find_kernels.__wrapped__(HERE[0]) is None


def _not_installed(name: str) -> None:
    raise native.PackageNotFoundError(name)


@needed
def test_a_compiler_that_knows_less_builds_less(tmp_path, monkeypatch):
    """And the best of what there is is used."""
    real = build.compiler()
    older = tmp_path / "older"
    older.write_text(f'#!/bin/sh\ncase "$*" in *avx512*) exit 1;; esac\nexec {real} "$@"\n')
    older.chmod(0o755)
    monkeypatch.setenv("CXX", str(older))
    build.build(tmp_path)
    assert [path.name for path in tmp_path.glob("*.so")] == [build.file_name("avx2")]
    monkeypatch.setattr(native, "_folders", lambda: iter([tmp_path]))
    found = native.find_kernels.__wrapped__()
    assert found is not None
    assert found.level == "avx2"


def test_without_a_compiler_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(build.NotBuilt, match="no C\\+\\+ compiler"):
        build.build(tmp_path)
    compiler = tmp_path / "old"
    compiler.write_text("#!/bin/sh\necho 'error: unknown option' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.NotBuilt, match=r"old failed: error: unknown option"):
        build.build(tmp_path)
    assert [path.name for path in Path(tmp_path).iterdir()] == ["old"]
