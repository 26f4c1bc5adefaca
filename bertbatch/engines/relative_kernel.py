"""Attention by distances in a Triton kernel, over sequences that lie end to end.

Attention is as in FlashAttention (Dao et al. 2022, https://arxiv.org/abs/2205.14135): keys are
passed once, and sums over them are kept relative to the largest score so far. A tile of ROWS
queries and KEYS keys has only ROWS + KEYS − 1 distances. So what these add to its scores are two
more products of matrices, with a slice of each table, whose rows are then moved into place.

Query, key, value and out [tokens, HEADS, SIZE], `stride` values apart. The tables `keys` and
`queries` [HEADS, distances, SIZE] and `scalars` [HEADS, distances] are in the order of the key's
place less the query's. A block is as in `fused_kernels.py`.
"""

import triton
import triton.language as tl

_OF_BASE_2 = tl.constexpr(1.4426950408889634)
_NEVER = tl.constexpr(-1e30)  # a masked score: with −∞, a difference of two would be NaN


@triton.jit
def attend(
    query,
    key,
    value,
    keys,
    queries,
    scalars,
    blocks,
    out,
    stride,
    scale,
    distances,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    WIDE: tl.constexpr,
    KEYED: tl.constexpr,
    QUERIED: tl.constexpr,
    ADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The answers of a block's queries, one head; `scale` is of the products of query and key.

    KEYED, QUERIED and ADDED: which of the tables there are. WIDE is ROWS + KEYS or more.
    """
    block, head = blocks + tl.program_id(0) // HEADS * 4, tl.program_id(0) % HEADS
    length, first = tl.load(block + 1), tl.load(block + 2)
    # From here on places are within the sequence; those of a large batch need 64 bits.
    start = tl.load(block).to(tl.int64)
    query, key, value = query + start * stride, key + start * stride, value + start * stride
    out += start * (HEADS * SIZE)
    table = head * distances  # where this head's rows begin
    row, place = tl.arange(0, ROWS), tl.arange(0, KEYS)
    i = first + row
    here = i < length
    size = tl.arange(0, SIZE)
    column = head * SIZE + size
    q = tl.load(query + i[:, None] * stride + column, mask=here[:, None], other=0.0)
    # In a slice that begins with the distance from the last query to the first key:
    of_key = place[None, :] - row[:, None] + (ROWS - 1)
    of_query = place[:, None] - row[None, :] + (ROWS - 1)

    largest = tl.full([ROWS], _NEVER, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    answer = tl.zeros([ROWS, SIZE], tl.float32)
    for at in range(0, length, KEYS):
        j = at + place
        there = j < length
        others = j[:, None] * stride + column
        k = tl.load(key + others, mask=there[:, None], other=0.0)
        v = tl.load(value + others, mask=there[:, None], other=0.0)
        score = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        near = at - first - (ROWS - 1) + distances // 2 + tl.arange(0, WIDE)
        known = (near >= 0) & (near < distances)
        rows = (table + near)[:, None] * SIZE + size
        if KEYED:
            nearby = tl.load(keys + rows, mask=known[:, None], other=0.0)
            products = tl.dot(q, tl.trans(nearby), input_precision=PRECISION)
            score += tl.gather(products, of_key, 1)
        if QUERIED:
            nearby = tl.load(queries + rows, mask=known[:, None], other=0.0)
            products = tl.dot(k, tl.trans(nearby), input_precision=PRECISION)
            score += tl.trans(tl.gather(products, of_query, 1))
        if ADDED:
            apart = j[None, :] - i[:, None] + distances // 2
            within = (apart >= 0) & (apart < distances)
            score += tl.load(scalars + table + apart, mask=within, other=0.0).to(tl.float32)
        score = score * _OF_BASE_2 + tl.where(there, 0.0, _NEVER)[None, :]
        now = tl.maximum(largest, tl.max(score, 1))
        shrink = tl.exp2(largest - now)
        exponent = tl.exp2(score - now[:, None])
        total = total * shrink + tl.sum(exponent, 1)
        weights = exponent.to(value.dtype.element_ty)
        answer = tl.dot(weights, v, answer * shrink[:, None], input_precision=PRECISION)
        largest = now

    written = i[:, None] * (HEADS * SIZE) + column
    tl.store(out + written, answer / total[:, None], mask=here[:, None])
