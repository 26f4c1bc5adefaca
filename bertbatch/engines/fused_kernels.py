"""Attention in Triton kernels that collect statistics of its weights on the way.

No weight is ever stored. `attend` is attention as in FlashAttention (Dao et al. 2022,
https://arxiv.org/abs/2205.14135): keys are passed once, and all sums over them are kept relative
to the largest score so far. `receive` passes the queries once more for what keys receive, from
each query's normalizer. Both leave sums for each block of tokens, which `fold` adds in a fixed
order, so that answers do not change from run to run.

Sequences lie end to end: query, key, value and out [tokens, HEADS, SIZE], `stride` values apart.
A block [start, length, first, second] is the ROWS tokens from `first` on of the sequence at
`start`; its second segment begins at `second`.
"""

import triton
import triton.language as tl

from bertbatch.engines import one_pass
from bertbatch.engines.one_pass import KINDS_OF_TOKENS, Sum

# The sums of a block and a head, by their place. CLS to OTHER_SEGMENT come from the first columns
# of `kinds`, in this order; a matrix product takes no fewer than KINDS of them.
SUMS = tl.constexpr(one_pass.SUMS)
ENTROPY = tl.constexpr(int(Sum.ENTROPY))
MAX_WEIGHT = tl.constexpr(int(Sum.MAX_WEIGHT))
SQUARES = tl.constexpr(int(Sum.SQUARES))
DISTANCE = tl.constexpr(int(Sum.DISTANCE))
PREVIOUS = tl.constexpr(int(Sum.PREVIOUS))
SELF = tl.constexpr(int(Sum.SELF))
NEXT = tl.constexpr(int(Sum.NEXT))
RECEIVED = tl.constexpr(int(Sum.RECEIVED))
CLS = tl.constexpr(int(Sum.CLS))
MOST_RECEIVED = tl.constexpr(int(Sum.MOST_RECEIVED))
KINDS = tl.constexpr(8)
SECOND = tl.constexpr(len(KINDS_OF_TOKENS))  # the column of the second segment

_LN_2 = tl.constexpr(0.6931471805599453)
_NEVER = tl.constexpr(-1e30)  # a masked score: with −∞, the product with a weight of zero is NaN
_LANES = tl.constexpr(8)


@triton.jit
def _partly(x):
    """Row sums in 8 parts [rows, 8]: what one thread holds, so that none are exchanged yet."""
    return tl.sum(tl.reshape(x, [x.shape[0], x.shape[1] // _LANES, _LANES]), 1)


@triton.jit
def _scores(queries, key, place, valid, scale):
    """Scores [rows] of queries [rows, size] with one key each, at `place` [rows, size]."""
    keys = tl.load(key + place, mask=valid[:, None], other=0.0)
    return tl.sum(queries * keys.to(tl.float32), 1) * scale


@triton.jit
def attend(
    query,
    key,
    value,
    kinds,
    counted,
    blocks,
    out,
    normalizer,
    sums,
    stride,
    scale,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The answers of a block's queries, one head, and sums over those that are counted.

    `kinds` [tokens, KINDS] of the values' type, `counted` int8 [tokens]; `scale` is of base 2.
    `normalizer` [tokens, HEADS] gets the logarithm of base 2 of each query's sum of exponents.
    """
    block, head = blocks + tl.program_id(0) // HEADS * 4, tl.program_id(0) % HEADS
    length, first, second = tl.load(block + 1), tl.load(block + 2), tl.load(block + 3)
    # From here on places are within the sequence; those of a large batch need 64 bits.
    start = tl.load(block).to(tl.int64)
    query, key, value = query + start * stride, key + start * stride, value + start * stride
    kinds, counted = kinds + start * KINDS, counted + start
    out, normalizer = out + start * (HEADS * SIZE), normalizer + start * HEADS
    i = first + tl.arange(0, ROWS)
    here = i < length
    column = head * SIZE + tl.arange(0, SIZE)
    own = i[:, None] * stride + column
    q = tl.load(query + own, mask=here[:, None], other=0.0)
    # The scores of the three neighbours: cheaper once here than to select them at every key.
    wide = q.to(tl.float32)
    previous = _scores(wide, key, own - stride, here & (i > 0), scale)
    itself = _scores(wide, key, own, here, scale)
    following = _scores(wide, key, own + stride, i + 1 < length, scale)

    largest = tl.full([ROWS], _NEVER, tl.float32)
    total = tl.zeros([ROWS, _LANES], tl.float32)
    spread = tl.zeros([ROWS, _LANES], tl.float32)  # Σ exponent · (score − largest)
    squares = tl.zeros([ROWS, _LANES], tl.float32)
    distance = tl.zeros([ROWS, _LANES], tl.float32)
    masses = tl.zeros([ROWS, KINDS], tl.float32)
    answer = tl.zeros([ROWS, SIZE], tl.float32)
    for at in range(0, length, KEYS):
        j = at + tl.arange(0, KEYS)
        there = j < length
        others = j[:, None] * stride + column
        k = tl.load(key + others, mask=there[:, None], other=0.0)
        v = tl.load(value + others, mask=there[:, None], other=0.0)
        of_kind = j[:, None] * KINDS + tl.arange(0, KINDS)
        w = tl.load(kinds + of_kind, mask=there[:, None], other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        score += tl.where(there, 0.0, _NEVER)[None, :]
        now = tl.maximum(largest, tl.max(score, 1))
        less = (largest - now)[:, None]
        shrink = tl.exp2(less)
        below = score - now[:, None]
        exponent = tl.exp2(below)
        apart = tl.abs(i.to(tl.float32)[:, None] - j.to(tl.float32)[None, :])
        spread = (spread + less * total) * shrink + _partly(exponent * below)
        squares = squares * (shrink * shrink) + _partly(exponent * exponent)
        distance = distance * shrink + _partly(exponent * apart)
        total = total * shrink + _partly(exponent)
        weights = exponent.to(value.dtype.element_ty)
        masses = tl.dot(weights, w, masses * shrink, input_precision=PRECISION)
        answer = tl.dot(weights, v, answer * shrink, input_precision=PRECISION)
        largest = now

    whole = tl.sum(total, 1)
    share = 1.0 / whole
    written = i[:, None] * (HEADS * SIZE) + column
    tl.store(out + written, answer * share[:, None], mask=here[:, None])

    counts = tl.load(counted + i, mask=here, other=0) != 0
    bits = tl.log2(whole)
    # Of a query that is not counted no key receives anything: 2 to the power of −1e30 is 0.
    normal = tl.where(counts, largest + bits, -_NEVER)
    tl.store(normalizer + i * HEADS + head, normal, mask=here)
    share = tl.where(counts, share, 0.0)
    entropy = _LN_2 * (tl.where(counts, bits, 0.0) - tl.sum(spread, 1) * share)
    before = tl.where(i > 0, tl.exp2(previous - largest), 0.0) * share
    after = tl.where(i + 1 < length, tl.exp2(following - largest), 0.0) * share
    target = sums + tl.program_id(0) * SUMS
    tl.store(target + ENTROPY, tl.sum(entropy, 0))
    tl.store(target + MAX_WEIGHT, tl.sum(share, 0))  # the largest exponent is 1
    tl.store(target + SQUARES, tl.sum(tl.sum(squares, 1) * share * share, 0))
    tl.store(target + DISTANCE, tl.sum(tl.sum(distance, 1) * share, 0))
    tl.store(target + PREVIOUS, tl.sum(before, 0))
    tl.store(target + SELF, tl.sum(tl.exp2(itself - largest) * share, 0))
    tl.store(target + NEXT, tl.sum(after, 0))
    # What does not go to the second segment goes to the first.
    crossing = (tl.arange(0, KINDS) == SECOND)[None, :] & (i >= second)[:, None]
    masses = tl.where(crossing, whole[:, None] - masses, masses) * share[:, None]
    tl.store(target + CLS + tl.arange(0, KINDS), tl.sum(masses, 0))


@triton.jit
def receive(
    query,
    key,
    normalizer,
    counted,
    blocks,
    sums,
    stride,
    scale,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """What a block's keys receive from counted queries: counted keys in all, any key at most."""
    block, head = blocks + tl.program_id(0) // HEADS * 4, tl.program_id(0) % HEADS
    length, first = tl.load(block + 1), tl.load(block + 2)
    start = tl.load(block).to(tl.int64)
    query, key = query + start * stride, key + start * stride
    normalizer, counted = normalizer + start * HEADS, counted + start
    j = first + tl.arange(0, ROWS)
    here = j < length
    column = head * SIZE + tl.arange(0, SIZE)
    k = tl.load(key + j[:, None] * stride + column, mask=here[:, None], other=0.0)
    received = tl.zeros([ROWS, _LANES], tl.float32)
    for at in range(0, length, KEYS):
        i = at + tl.arange(0, KEYS)
        there = i < length
        others = i[:, None] * stride + column
        q = tl.load(query + others, mask=there[:, None], other=0.0)
        normal = tl.load(normalizer + i * HEADS + head, mask=there, other=1e30)
        score = tl.dot(k, tl.trans(q), input_precision=PRECISION) * scale
        received += _partly(tl.exp2(score - normal[None, :]))
    each = tl.sum(received, 1)
    counts = tl.load(counted + j, mask=here, other=0) != 0
    target = sums + tl.program_id(0) * SUMS
    tl.store(target + RECEIVED, tl.sum(tl.where(counts, each, 0.0), 0))
    tl.store(target + MOST_RECEIVED, tl.max(tl.where(here, each, 0.0), 0))


@triton.jit
def fold(
    sums,
    ends,
    places,
    factors,
    out,
    HEADS: tl.constexpr,
    HEADS_2: tl.constexpr,
    STATISTICS: tl.constexpr,
    STATISTICS_2: tl.constexpr,
):
    """A sequence's values from the sums of its blocks, times its factors.

    `ends` [sequences + 1] of the blocks; `places` [statistics] among the sums; `factors`
    [sequences, statistics]; `out` [sequences, statistics, HEADS]. HEADS_2 and STATISTICS_2 are the
    next powers of two.
    """
    sequence = tl.program_id(0)
    head, statistic = tl.arange(0, HEADS_2)[:, None], tl.arange(0, STATISTICS_2)[None, :]
    valid = (head < HEADS) & (statistic < STATISTICS)
    place = tl.load(places + statistic, mask=statistic < STATISTICS, other=0)
    value = tl.zeros([HEADS_2, STATISTICS_2], tl.float32)
    for block in range(tl.load(ends + sequence), tl.load(ends + sequence + 1)):
        at = (block * HEADS + head) * SUMS + place
        x = tl.load(sums + at, mask=valid, other=0.0)
        value = tl.where(place == MOST_RECEIVED, tl.maximum(value, x), value + x)
    factor = tl.load(
        factors + sequence * STATISTICS + statistic, mask=statistic < STATISTICS, other=0.0
    )
    value = tl.maximum(value, 0.0) * factor  # rounding may give less than nothing
    row = sequence * STATISTICS + statistic
    tl.store(out + row * HEADS + head, value, mask=valid)
