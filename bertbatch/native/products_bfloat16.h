// Products of bfloat16 with sums in float32: in tiles (AMX), or else in vectors (AVX512-BF16).
#pragma once
#include "tiles.h"

namespace {

constexpr long STEP = 32;  // inputs are filled up with zeros to a multiple of it

// sums[GROUP][PANEL] = x[GROUP][inputs] · panel[inputs / 2][PANEL][2]
// `between` is called as often as there are steps.
#ifdef __AMX_BF16__

template <class Between>
inline void products(const Half* x, long stride, const Half* panel, long inputs, float* sums,
                     long sums_stride, Between between) {
  tile_products(x, stride, panel, inputs, sums, sums_stride, between);
}

#else

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
