// Attention over sequences that are packed end to end, in bfloat16, with sums in float32.
#pragma once
#include "functions.h"
#include "products_bfloat16.h"
#include "reach.h"
#include "statistics.h"

namespace {

struct HalfHead {  // of one sequence, filled up with zeros to `padded` tokens
  Half* queries;   // [GROUP, size], of the last group only
  Half* keys;      // [padded / PANEL, size / 2, PANEL, 2]
  Half* values;    // [size / PANEL, padded / 2, PANEL, 2]
  Half* weights;   // [GROUP, padded]
  float* scores;   // [GROUP, padded]
  float* out;      // [GROUP, size]
  long length, padded, size;
  long reach;      // how far from a query keys may be
};

// The bytes that `attention_bfloat16` needs to work with, for sequences of at most so many tokens.
long attention_room_bfloat16(long longest, long size) {
  const long padded = rounded_up(longest, PANEL), halves = sizeof(Half), floats = sizeof(float);
  return halves * (GROUP * size + 2 * padded * size + GROUP * padded) +
         floats * (GROUP * (padded + size) + padded);
}

// Sixteen rows of sixteen pairs of halves as columns: rows `stride`, columns 2 · PANEL halves
// apart. Pairs change places in blocks of two, four, eight and sixteen.
inline void transpose(const Half* from, long stride, long rows, Half* to) {
  __m512i a[16], b[16];
  for (long i = 0; i < 16; i++)
    a[i] = i < rows ? _mm512_loadu_si512(from + i * stride) : _mm512_setzero_si512();
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
      a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
    }
  for (int j = 0; j < 4; j++) {
    b[j] = _mm512_shuffle_i32x4(a[j], a[j + 4], 0x88);
    b[j + 4] = _mm512_shuffle_i32x4(a[j], a[j + 4], 0xdd);
    b[j + 8] = _mm512_shuffle_i32x4(a[j + 8], a[j + 12], 0x88);
    b[j + 12] = _mm512_shuffle_i32x4(a[j + 8], a[j + 12], 0xdd);
  }
  for (int j = 0; j < 4; j++) {
    a[j] = _mm512_shuffle_i32x4(b[j], b[j + 8], 0x88);
    a[j + 8] = _mm512_shuffle_i32x4(b[j], b[j + 8], 0xdd);
    a[j + 4] = _mm512_shuffle_i32x4(b[j + 4], b[j + 12], 0x88);
    a[j + 12] = _mm512_shuffle_i32x4(b[j + 4], b[j + 12], 0xdd);
  }
  for (long i = 0; i < 16; i++) _mm512_storeu_si512(to + i * 2 * PANEL, a[i]);
}

// Two rows of values, of PANEL halves each, with their halves in turn.
inline void interleave(__m512i first, __m512i second, Half* to) {
  const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,
                                       39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(first, low, second));
  _mm512_storeu_si512(to + PANEL, _mm512_permutex2var_epi16(first, high, second));
}

inline void arrange(const Half* key, const Half* value, long stride, const HalfHead& head) {
  for (long s = 0; s < head.padded; s += 16)
    for (long d = 0; d < head.size; d += 32)
      transpose(key + s * stride + d, stride, head.length - s,
                head.keys + s / PANEL * PANEL * head.size + d * PANEL + s % PANEL * 2);
  const __m512i nothing = _mm512_setzero_si512();
  for (long d = 0; d < head.size; d += PANEL) {
    Half* to = head.values + d * head.padded;
    for (long s = 0; s < head.padded; s += 2, to += 2 * PANEL) {
      const Half* from = value + s * stride + d;
      interleave(s < head.length ? _mm512_loadu_si512(from) : nothing,
                 s + 1 < head.length ? _mm512_loadu_si512(from + stride) : nothing, to);
    }
  }
}

// softmax(factor · scores) of `count` scores, powers of two not divided by their sum, which is
// returned.
inline float softmax(const float* scores, long count, float factor, Half* weights) {
  const Floats top = all(largest(scores, count)), scale = all(factor);
  Floats total = zero();
  for (long s = 0; s < count; s += WIDTH) {
    Floats e = rough_exp2(mul(sub(load(scores + s), top), scale));
    total = add(total, e);
    store(weights + s, e);
  }
  return sum(total);
}

// Rows from the query at `place` on; `of` may be null.
inline void attend(const Half* query, long stride, long rows, const HalfHead& head, float factor,
                   Half* out, long out_stride, long place, Watched* of) {
  if (rows < GROUP) {  // filled up with zeros
    for (long r = 0; r < GROUP; r++)
      for (long d = 0; d < head.size; d++)
        head.queries[r * head.size + d] = r < rows ? query[r * stride + d] : 0;
    query = head.queries, stride = head.size;
  }
  const Keys keys = near(place, rows, head.reach, head.length);
  const long last = rounded_up(keys.stop, PANEL), count = last - keys.first;
  for (long t = keys.first; t < last; t += PANEL)
    products(query, stride, head.keys + t * head.size, head.size, head.scores + t, head.padded);
  float sums[GROUP];
  for (long r = 0; r < rows; r++) {
    float* scores = head.scores + r * head.padded;
    Half* weights = head.weights + r * head.padded;
    leave_out(scores, place + r, head.reach, keys, last);
    if (of && of->counted[place + r] != 0)
      sums[r] = watch(scores, place + r, *of, factor, -1e38f, [](Floats x) { return rough_exp2(x); },
                      [&](long s, Floats e) { store(weights + s, e); });
    else
      sums[r] = softmax(scores + keys.first, count, factor, weights + keys.first);
  }
  for (long d = 0; d < head.size; d += PANEL)
    products(head.weights + keys.first, head.padded,
             head.values + d * head.padded + keys.first * PANEL, count, head.out + d, head.size);
  for (long r = 0; r < rows; r++) {
    const Floats share = all(1 / sums[r]);
    for (long d = 0; d < head.size; d += WIDTH)
      store(out + r * out_stride + d, mul(load(head.out + r * head.size + d), share));
  }
}

// query, key, value [tokens, heads, size], tokens `stride` halves apart; out [tokens, heads · size].
// bounds [sequences + 1] are the sequences' first tokens, and the end of the last. scale > 0.
void attention_bfloat16(const Half* query, const Half* key, const Half* value, long stride,
                        const long* bounds, long sequences, long heads, long size, float scale,
                        long reach, Half* out, const Statistics& statistics, char* room) {
  const WithTiles tiles;
  const float factor = scale * 1.44269504f;  // to powers of two
  for (long i = 0; i < sequences; i++) {
    const long begin = bounds[i], length = bounds[i + 1] - begin;
    const long padded = rounded_up(length, PANEL);
    HalfHead head;
    head.scores = (float*)room;
    head.out = head.scores + GROUP * padded;
    float* received = head.out + GROUP * size;
    head.queries = (Half*)(received + padded);
    head.keys = head.queries + GROUP * size;
    head.values = head.keys + padded * size;
    head.weights = head.values + padded * size;
    head.length = length, head.padded = padded, head.size = size, head.reach = reach;
    for (long h = 0; h < heads; h++) {
      const long first = begin * stride + h * size;
      arrange(key + first, value + first, stride, head);
      Watched one, *of = nullptr;
      if (statistics.sums) {
        one = watched(statistics, i, h, heads, begin, length, received);
        of = &one;
      }
      for (long s = 0; s < length; s += GROUP)
        attend(query + first + s * stride, stride, least(GROUP, length - s), head, factor,
               out + ((begin + s) * heads + h) * size, heads * size, s, of);
      if (of) finish(one, .69314718f);
    }
  }
}

}  // namespace
