// Attention over sequences that are packed end to end, in float32.
#pragma once
#include "linear.h"
#include "reach.h"
#include "statistics.h"

namespace {

constexpr long QUERIES = ROWS < 8 ? ROWS : 8;  // at a time; of more, sums leave their registers

struct Head {  // of one sequence; keys and values as the tiles read them
  float* keys;     // [length / PANEL, size, PANEL], filled up with zeros
  float* values;   // [size / PANEL, length, PANEL]
  float* weights;  // [QUERIES, padded length]
  long length, size;
  long reach;      // how far from a query keys may be
};

// The exponents of scores, in their place, and their sum.
inline float exponents(float* scores, long padded) {
  const Floats top = all(largest(scores, padded));
  Floats total = zero();
  for (long s = 0; s < padded; s += WIDTH) {
    const Floats e = exp(sub(load(scores + s), top));
    total = add(total, e);
    store(scores + s, e);
  }
  return sum(total);
}

// Rows of softmax(scale · q kᵀ) v from the query at `place` on; out [R, size]. `of` may be null.
template <long R>
void attend(const float* query, long stride, const Head& head, float scale, float* out,
            long out_stride, long place, Watched* of) {
  const Keys keys = near(place, R, head.reach, head.length);
  const long padded = rounded_up(head.length, PANEL), last = rounded_up(keys.stop, PANEL);
  for (long s = keys.first; s < last; s += PANEL) {
    Floats sums[R][2];
    UNROLL for (long r = 0; r < R; r++) sums[r][0] = sums[r][1] = zero();
    multiply<R>(query, stride, head.keys + s * head.size, head.size, sums);
    UNROLL for (long r = 0; r < R; r++) UNROLL for (long j = 0; j < 2; j++)
      store(head.weights + r * padded + s + j * WIDTH, mul(sums[r][j], all(scale)));
  }
  const auto precise = [](Floats x) { return exp(x); };
  float share[R];
  for (long r = 0; r < R; r++) {
    float* row = head.weights + r * padded;
    leave_out(row, place + r, head.reach, keys, last);
    const bool counts = of && of->counted[place + r] != 0;
    share[r] = 1 / (counts ? watch(row, place + r, *of, 1, -87, precise, [](long, Floats) {})
                           : exponents(row + keys.first, last - keys.first));
  }
  for (long d = 0; d < head.size; d += PANEL) {
    Floats sums[R][2];
    UNROLL for (long r = 0; r < R; r++) sums[r][0] = sums[r][1] = zero();
    multiply<R>(head.weights + keys.first, padded, head.values + d * head.length + keys.first * PANEL,
                keys.stop - keys.first, sums);
    UNROLL for (long r = 0; r < R; r++) UNROLL for (long j = 0; j < 2; j++)
      store(out + r * out_stride + d + j * WIDTH, mul(sums[r][j], all(share[r])));
  }
}

// Rows of key and value [length, size] into the layout of `Head`; size is a multiple of PANEL.
inline void arrange(const float* key, const float* value, long stride, const Head& head) {
  const long padded = rounded_up(head.length, PANEL);
  for (long s = 0; s < padded; s++) {
    float* column = head.keys + s / PANEL * PANEL * head.size + s % PANEL;
    for (long d = 0; d < head.size; d++)
      column[d * PANEL] = s < head.length ? key[s * stride + d] : 0;
  }
  for (long s = 0; s < head.length; s++)
    for (long d = 0; d < head.size; d += WIDTH)
      store(head.values + d / PANEL * PANEL * head.length + s * PANEL + d % PANEL,
            load(value + s * stride + d));
}

// The bytes that `attention` needs to work with, for sequences of at most so many tokens.
long attention_room(long longest, long size) {
  return (2 * size + QUERIES + 1) * rounded_up(longest, PANEL) * (long)sizeof(float);
}

// query, key, value [tokens, heads, size], tokens `stride` floats apart; out [tokens, heads · size].
// bounds [sequences + 1] are the sequences' first tokens, and the end of the last. Keys further from
// a query than `reach` are not attended; with statistics it is at least the longest sequence.
void attention(const float* query, const float* key, const float* value, long stride,
               const long* bounds, long sequences, long heads, long size, float scale, long reach,
               float* out, const Statistics& statistics, float* room) {
  for (long i = 0; i < sequences; i++) {
    const long begin = bounds[i], length = bounds[i + 1] - begin;
    const long padded = rounded_up(length, PANEL);
    float* values = room + size * padded;
    const Head head = {room, values, values + size * padded, length, size, reach};
    for (long h = 0; h < heads; h++) {
      const long first = begin * stride + h * size;
      arrange(key + first, value + first, stride, head);
      Watched one, *of = nullptr;
      if (statistics.sums) {
        one = watched(statistics, i, h, heads, begin, length, head.weights + QUERIES * padded);
        of = &one;
      }
      for (long s = 0; s < length; s += QUERIES) {
        float* to = out + ((begin + s) * heads + h) * size;
#define CALL(R) attend<R>(query + first + s * stride, stride, head, scale, to, heads * size, s, of)
        WITH_ROWS(least(QUERIES, length - s), CALL)
#undef CALL
      }
      if (of) finish(one, 1);
    }
  }
}

}  // namespace
