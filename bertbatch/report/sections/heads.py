"""Which heads vary together from row to row; rows that are unlike the others.

Nearly every statistic follows a text's length, so that any two heads would seem alike. Length is
taken out first: the correlations are partial ones, given ln n and its square for n tokens. With
covariances S of heads h and lengths z, these are the correlations of S_hh − S_hz S_zz⁻¹ S_zh:
Anderson 2003, An Introduction to Multivariate Statistical Analysis, section 2.5.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bertbatch.checks.answers import read_parts
from bertbatch.report.blocks import Block, Chart, Section, Table, Words, shown, whole
from bertbatch.report.charts import drawing
from bertbatch.report.material import Material

ROWS = 20_000  # whose statistics are read
LARGEST = 20  # pairs of heads, in a table
EXTREME = 3  # rows of each statistic
SAME = 1e-10  # a share of a variance that is nothing
LENGTH_OUT = ", without what text length explains (ln n and its square, for n tokens)"
LENGTH_IN = ", which text length is a part of (the output has no column n_tokens to take it out)"


def heads(material: Material) -> Section | None:
    answers = material.answers
    start = answers.name("attn_")
    columns = [
        field.name
        for field in answers.schema
        if field.name.startswith(start) and pa.types.is_fixed_size_list(field.type)
    ]
    if not columns or material.there is None or not material.scan.rows:
        return None
    parts = _parts(material)
    sums = {name: _Sums() for name in columns}
    extreme: dict[str, list[tuple[float, str, int]]] = {name: [] for name in columns}
    rows = 0
    has_lengths = answers.has("n_tokens")
    wanted = ["source", "row", *([answers.name("n_tokens")] if has_lengths else []), *columns]
    for _, _, table in read_parts(answers.output, parts, wanted, {}):
        rows += table.num_rows
        powers = _powers(table[answers.name("n_tokens")]) if has_lengths else None
        for name in columns:
            values, valid = _matrix(table[name])
            sums[name].add(values, None if powers is None else powers[valid])
            extreme[name] += _extreme(table.filter(pa.array(valid)), values)
    shape = answers.schema.field(columns[0]).metadata or {}
    of_layer = int(shape.get(b"heads", 1))
    matrix = _similarity(list(sums.values()))
    if matrix is None:
        return None
    part = f" of a sample of {len(parts)} parts" if len(parts) < len(material.there.units) else ""
    blocks: list[Block] = [
        Words(
            f"The correlation of two heads over rows{LENGTH_OUT if has_lengths else LENGTH_IN}, "
            f"mean of {len(columns)} statistics, from {whole(rows)} rows{part}. Unusual are rows "
            "whose mean over all heads is very small or very large."
        ),
        _chart(matrix, of_layer),
        _rows(extreme, len(start)),
    ]
    return Section("heads", "Similar heads, unusual rows", blocks)


def _parts(material: Material) -> list[str]:
    """Parts spread evenly over the output, with about `ROWS` rows."""
    assert material.there
    units = [unit for unit in material.there.units if unit.part not in material.scan.damaged]
    rows = sum(unit.selected for unit in units)
    step = max(rows / ROWS, 1.0)
    places = np.unique((np.arange(int(len(units) / step) or 1) * step).astype(int))
    return [units[place].part for place in places]


class _Sums:
    """Sums over rows of a statistic's values and of their products.

    The powers of a text's length are columns, too: the last of [heads + powers].
    """

    def __init__(self) -> None:
        self.rows = 0
        self.powers = 0
        self.shift: np.ndarray | None = None
        self.first: Any = 0.0
        self.second: Any = 0.0

    def add(self, values: np.ndarray, powers: np.ndarray | None) -> None:
        """Values float64 [rows, heads], and powers of lengths [rows, powers] if they are known."""
        if not len(values):
            return
        if powers is not None:
            self.powers = powers.shape[1]
            values = np.concatenate([values, powers], 1)
        if self.shift is None:
            self.shift = values.mean(0)  # near the mean, so that products lose no digits
        off = values - self.shift
        self.rows += len(off)
        self.first = self.first + off.sum(0)
        self.second = self.second + off.T @ off

    def correlations(self) -> np.ndarray | None:
        """Pearson's given the lengths, [heads, heads]; 0 where a head does not vary."""
        if self.rows < 3 + self.powers:
            return None
        mean = self.first / self.rows
        covariance = self.second / self.rows - np.outer(mean, mean)
        heads = len(covariance) - self.powers
        whole = np.diag(covariance)[:heads].copy()
        if self.powers:
            shared = covariance[:heads, heads:]
            inverse = np.linalg.pinv(covariance[heads:, heads:], rcond=SAME, hermitian=True)
            covariance = covariance[:heads, :heads] - shared @ inverse @ shared.T
        spread = np.diag(covariance)
        spread = np.sqrt(np.where(spread > SAME * whole, spread, 0))  # the rest is rounding
        both = np.outer(spread, spread)
        found = np.divide(covariance, both, out=np.zeros_like(covariance), where=both > 1e-20)
        clipped: np.ndarray = np.clip(found, -1, 1)
        return clipped


def _similarity(sums: Sequence[_Sums]) -> np.ndarray | None:
    found = [each for each in (one.correlations() for one in sums) if each is not None]
    return np.mean(found, axis=0) if found else None


def _powers(tokens: pa.ChunkedArray) -> np.ndarray:
    """ln n and its square for rows of n tokens, float64 [rows, 2]."""
    logs = np.log(np.maximum(tokens.to_numpy(), 1))
    return np.stack([logs, logs * logs], 1)


def _matrix(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The values of rows that have them, float64 [rows, heads]; which those are, bool."""
    array = column.combine_chunks()
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    there = array.drop_null()
    flat = there.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    return flat.reshape(len(there), -1), valid


def _extreme(table: pa.Table, values: np.ndarray) -> list[tuple[float, str, int]]:
    """A part's rows with the smallest and largest mean over heads."""
    if not len(values):
        return []
    means = values.mean(1)
    order = np.argsort(means, kind="stable")
    at = np.unique(np.concatenate([order[:EXTREME], order[-EXTREME:]]))
    sources, rows = (table[name].take(pa.array(at)).to_pylist() for name in ("source", "row"))
    return list(zip(means[at].tolist(), sources, rows, strict=True))


def _rows(extreme: dict[str, list[tuple[float, str, int]]], start: int) -> Table:
    lines = []
    for name, found in extreme.items():
        ordered = sorted(found)
        for what, few in (("smallest", ordered[:EXTREME]), ("largest", ordered[-EXTREME:][::-1])):
            lines += [
                (name[start:], what, f"{mean:.4g}", shown(source), str(row))
                for mean, source, row in few
            ]
    head = ("statistic", "", "mean of heads", "source", "row")
    return Table("Rows with the smallest and largest statistics", head, lines, (2, 4), folded=True)


def _chart(matrix: np.ndarray, of_layer: int) -> Chart:
    size = len(matrix)

    def draw(axes: Any) -> None:
        image = axes.imshow(matrix, vmin=-1, vmax=1, interpolation="nearest")
        ticks = np.arange(0, size, of_layer)
        layers = [str(i + 1) for i in range(len(ticks))]
        axes.set_xticks(ticks - 0.5, layers, ha="left")
        axes.set_yticks(ticks - 0.5, layers, va="top")
        axes.grid(False)
        axes.set_xlabel("layer (its heads in order)")
        axes.figure.colorbar(image, ax=axes, label="correlation").outline.set_visible(False)

    upper = np.triu_indices(size, 1)
    order = np.argsort(-matrix[upper], kind="stable")[:LARGEST]

    def name(place: int) -> str:
        return f"{place // of_layer + 1}.{place % of_layer + 1}"

    rows = [
        (name(upper[0][i]), name(upper[1][i]), f"{matrix[upper[0][i], upper[1][i]]:.3f}")
        for i in order.tolist()
    ]
    head = ("layer.head", "layer.head", "correlation")
    table = Table(f"The {len(rows)} most similar pairs", head, rows, (2,), folded=True)
    return Chart("Correlation of heads", drawing(draw, (4.9, 4.0)), table)
