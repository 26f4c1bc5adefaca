// y = act(x Wᵀ + b) or x Wᵀ + b + residual: products of rounded numbers, with exact sums.
//
// Each row of x is rounded to steps between its least and its largest value: x ≈ scale · q + least.
// Weights have one scale for each output. Without VNNI two products are added in 16 bits, where
// 2 · 127 · 127 fits, so rows have 7 bits there, and 8 bits elsewhere.
#pragma once
#include "functions.h"
#include "tiles.h"

namespace {

#ifdef __AVX512VNNI__
constexpr long STEPS = 255;
#else
constexpr long STEPS = 127;
#endif

constexpr long DEPTH = 64;      // inputs are filled up with zeros to a multiple of it
constexpr long HELD = 1 << 19;  // bytes of the rows that are rounded at a time

using Byte = unsigned char;

struct Rounded {  // how a row was rounded
  float scale, least;
};

// inputs is a multiple of 32. What is not finite makes the whole row's answers not a number.
inline Rounded round_row(const float* x, long inputs, Byte* q) {
  Floats least = all(x[0]), most = least, odd = zero();
  for (long k = 0; k < inputs; k += WIDTH) {
    Floats value = load(x + k);
    odd = fma(value, zero(), odd);
    least = min(least, value), most = max(most, value);
  }
  const float low = smallest(least), range = largest(most) - low;
  const float scale = (range > 1e-8f ? range : 1e-8f) / STEPS;
  const Floats factor = all(1 / scale), shift = all(-low / scale);
  for (long k = 0; k < inputs; k += 32) {
#ifdef __AVX512F__
    for (long j = 0; j < 32; j += WIDTH)
      _mm_storeu_si128((__m128i*)(q + k + j), _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(
                                                  fma(load(x + k + j), factor, shift))));
#else
    __m256i c[4];
    for (long j = 0; j < 4; j++)
      c[j] = _mm256_cvtps_epi32(fma(load(x + k + j * WIDTH), factor, shift));
    __m256i bytes =
        _mm256_packus_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256((__m256i*)(q + k), _mm256_permutevar8x32_epi32(bytes, order));
#endif
  }
  return {scale + sum(odd), low};
}

// sums[GROUP][PANEL] = q[GROUP][inputs] · panel[inputs / 4][PANEL][4]
#ifdef __AMX_INT8__
template <class Between>
inline void products(const Byte* q, long stride, const signed char* panel, long inputs, int* sums,
                     Between between) {
  tile_products(q, stride, panel, inputs, sums, PANEL, between);
}
#else

#ifdef __AVX512F__
using Ints = __m512i;
inline Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
inline void store_ints(void* p, Ints x) { _mm512_storeu_si512(p, x); }
inline Ints four(const Byte* p) { return _mm512_set1_epi32(*(const int*)p); }
inline Ints no_ints() { return _mm512_setzero_si512(); }
inline Ints multiply_add(Ints sums, Ints q, Ints w) {
#ifdef __AVX512VNNI__
  return _mm512_dpbusd_epi32(sums, q, w);
#else
  Ints pairs = _mm512_maddubs_epi16(q, w);
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}
#else
using Ints = __m256i;
inline Ints load_ints(const void* p) { return _mm256_loadu_si256((const Ints*)p); }
inline void store_ints(void* p, Ints x) { _mm256_storeu_si256((Ints*)p, x); }
inline Ints four(const Byte* p) { return _mm256_set1_epi32(*(const int*)p); }
inline Ints no_ints() { return _mm256_setzero_si256(); }
inline Ints multiply_add(Ints sums, Ints q, Ints w) {
  Ints pairs = _mm256_maddubs_epi16(q, w);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif

template <class Between>
inline void products(const Byte* q, long stride, const signed char* panel, long inputs, int* sums,
                     Between between) {
  Ints totals[GROUP][2];
  UNROLL for (long r = 0; r < GROUP; r++) totals[r][0] = totals[r][1] = no_ints();
  _Pragma("GCC unroll 4") for (long k = 0; k < inputs; k += 4, panel += 4 * PANEL) {
    Ints left = load_ints(panel), right = load_ints(panel + 2 * PANEL);
    UNROLL for (long r = 0; r < GROUP; r++) {
      Ints values = four(q + r * stride + k);
      totals[r][0] = multiply_add(totals[r][0], values, left);
      totals[r][1] = multiply_add(totals[r][1], values, right);
    }
  }
  UNROLL for (long r = 0; r < GROUP; r++) UNROLL for (long j = 0; j < 2; j++)
    store_ints(sums + r * PANEL + j * WIDTH, totals[r][j]);
  for (long k = 0; k < inputs; k += DEPTH) between();
}
#endif

inline Floats to_floats(const int* p) {
#ifdef __AVX512F__
  return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
#else
  return _mm256_cvtepi32_ps(_mm256_loadu_si256((const __m256i*)p));
#endif
}

struct Layer8 {
  const signed char* weights;  // [outputs / PANEL, inputs / 4, PANEL, 4]; see pack.h
  const float *scales, *columns, *bias;  // [outputs]; a column is the sum of its scaled weights
  long inputs, outputs;
  int activation;
};

struct Pending8 {  // the products of some rows, and where their results go
  const Rounded* rounded;
  const float* residual;
  float* y;
  long column, rows;
};

inline void finish(const int* sums, const Layer8& layer, const Pending8& of, long row) {
  const Floats scale = all(of.rounded[row].scale), least = all(of.rounded[row].least);
  UNROLL for (long j = 0; j < PANEL; j += WIDTH) {
    const long n = of.column + j, at = row * layer.outputs + j;
    Floats shift = fma(least, load(layer.columns + n), load(layer.bias + n));
    Floats y = fma(mul(to_floats(sums + row * PANEL + j), load(layer.scales + n)), scale, shift);
    if (of.residual) y = add(y, load(of.residual + at));
    if (layer.activation == GELU) y = rough_gelu(y);
    store(of.y + at, y);
  }
}

inline long rows_held(long inputs) {
  return HELD / rounded_up(inputs, DEPTH) / GROUP * GROUP + GROUP;
}

// The bytes that `linear_int8` needs to work with.
long int8_room(long inputs) {
  return rows_held(inputs) * (rounded_up(inputs, DEPTH) + (long)sizeof(Rounded));
}

// x [rows, inputs]; y and residual [rows, outputs]; outputs is a multiple of PANEL, inputs of 32.
void linear_int8(const float* x, long rows, const Layer8& layer, float* y, const float* residual,
                 Byte* room) {
  const WithTiles tiles;
  const long width = rounded_up(layer.inputs, DEPTH), held = rows_held(layer.inputs);
  const long each = (GROUP + width / DEPTH - 1) / (width / DEPTH);  // rows between two steps
  Rounded* rounded = (Rounded*)(room + held * width);
  alignas(64) int sums[2][GROUP * PANEL];
  for (long top = 0; top < rows; top += held) {
    const long count = least(held, rows - top);
    for (long m = 0; m < rounded_up(count, GROUP); m++) {
      if (m < count)
        rounded[m] = round_row(x + (top + m) * layer.inputs, layer.inputs, room + m * width);
      for (long k = m < count ? layer.inputs : 0; k < width; k++) room[m * width + k] = 0;
    }
    Pending8 before = {};
    long turn = 0;
    for (long n = 0; n < layer.outputs; n += PANEL)
      for (long m = 0; m < count; m += GROUP, turn ^= 1) {
        long row = 0;
        products(room + m * width, width, layer.weights + n * width, width, sums[turn], [&] {
          for (long stop = least(row + each, before.rows); row < stop; row++)
            finish(sums[turn ^ 1], layer, before, row);
        });
        const long at = (top + m) * layer.outputs + n;
        before = {rounded + m, residual ? residual + at : nullptr, y + at, n,
                  least(GROUP, count - m)};
      }
    for (long row = 0; row < before.rows; row++) finish(sums[turn ^ 1], layer, before, row);
  }
}

}  // namespace
