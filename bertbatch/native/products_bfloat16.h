// Products of bfloat16 with sums in float32: in tiles (AMX), or else in vectors (AVX512-BF16).
#pragma once
#include "tiles.h"

namespace {

using Half = unsigned short;  // the bits of a bfloat16

constexpr long STEP = 32;  // inputs are filled up with zeros to a multiple of it

inline Floats widen(const Half* p) {
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

inline void narrow(Half* p, Floats x) {
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
}

#ifdef __AMX_BF16__

// sums[GROUP][PANEL] = x[GROUP][inputs] · panel[inputs / 2][PANEL][2]
// `between` is called after each step: the tiles multiply meanwhile.
template <class Between>
inline void products(const Half* x, long stride, const Half* panel, long inputs, float* sums,
                     long sums_stride, Between between) {
  const Half* below = x + 16 * stride;
  const long row = stride * (long)sizeof(Half), line = PANEL * 2 * (long)sizeof(Half);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (long k = 0; k < inputs; k += STEP, panel += STEP * PANEL) {
    _tile_loadd(4, x + k, row);
    _tile_loadd(6, panel, line);
    _tile_loadd(7, panel + PANEL, line);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, below + k, row);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    between();
  }
  const long to = sums_stride * (long)sizeof(float);
  _tile_stored(0, sums, to);
  _tile_stored(1, sums + 16, to);
  _tile_stored(2, sums + 16 * sums_stride, to);
  _tile_stored(3, sums + 16 * sums_stride + 16, to);
}

#else

// sums[GROUP][PANEL] = x[GROUP][inputs] · panel[inputs / 2][PANEL][2]
// `between` is called as often as there are steps.
template <class Between>
inline void products(const Half* x, long stride, const Half* panel, long inputs, float* sums,
                     long sums_stride, Between between) {
  Floats totals[GROUP][2];
  UNROLL for (long r = 0; r < GROUP; r++) totals[r][0] = totals[r][1] = zero();
  _Pragma("GCC unroll 2") for (long k = 0; k < inputs; k += 2, panel += 2 * PANEL) {
    __m512bh left = (__m512bh)_mm512_loadu_si512(panel);
    __m512bh right = (__m512bh)_mm512_loadu_si512(panel + PANEL);
    UNROLL for (long r = 0; r < GROUP; r++) {
      __m512bh pair = (__m512bh)_mm512_set1_epi32(*(const int*)(x + r * stride + k));
      totals[r][0] = _mm512_dpbf16_ps(totals[r][0], pair, left);
      totals[r][1] = _mm512_dpbf16_ps(totals[r][1], pair, right);
    }
  }
  UNROLL for (long r = 0; r < GROUP; r++) UNROLL for (long j = 0; j < 2; j++)
    store(sums + r * sums_stride + j * WIDTH, totals[r][j]);
  for (long k = 0; k < inputs; k += STEP) between();
}

#endif

inline void products(const Half* x, long stride, const Half* panel, long inputs, float* sums,
                     long sums_stride) {
  products(x, stride, panel, inputs, sums, sums_stride, [] {});
}

}  // namespace
