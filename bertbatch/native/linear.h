// y = act(x Wᵀ + b) or x Wᵀ + b + residual, in float32.
//
// A tile of ROWS × PANEL sums stays in registers. Each row's sums are added in the order of the
// inputs, whatever other rows there are: a row's answer does not depend on its neighbours.
#pragma once
#include "functions.h"

namespace {

constexpr long INPUTS = 384;   // that are added at a time: a panel of weights stays in the L1 cache
constexpr long BLOCK = 192;    // rows at a time: they stay in the L2 cache

// sums[R][2] += x[R][inputs] · panel[inputs][PANEL]
template <long R>
inline void multiply(const float* x, long stride, const float* panel, long inputs,
                     Floats sums[R][2]) {
  _Pragma("GCC unroll 4") for (long k = 0; k < inputs; k++, panel += PANEL) {
    Floats left = load(panel), right = load(panel + WIDTH);
    UNROLL for (long r = 0; r < R; r++) {
      Floats value = all(x[r * stride + k]);
      sums[r][0] = fma(value, left, sums[r][0]);
      sums[r][1] = fma(value, right, sums[r][1]);
    }
  }
}

struct Ends {  // of a tile's computation
  const float* bias;
  const float* residual;  // of the tile, or null
  bool first, last;       // whether these are the first, the last inputs
  int activation;
};

template <long R>
void tile(const float* x, long stride, const float* panel, long inputs, float* y, long y_stride,
          const Ends& ends) {
  Floats sums[R][2];
  UNROLL for (long r = 0; r < R; r++) sums[r][0] = sums[r][1] = zero();
  multiply<R>(x, stride, panel, inputs, sums);
  UNROLL for (long r = 0; r < R; r++) UNROLL for (long j = 0; j < 2; j++) {
    const float* before = ends.first ? ends.bias : y + r * y_stride;
    Floats sum = add(sums[r][j], load(before + j * WIDTH));
    if (ends.last && ends.residual) sum = add(sum, load(ends.residual + r * y_stride + j * WIDTH));
    if (ends.last && ends.activation == GELU) sum = gelu(sum);
    store(y + r * y_stride + j * WIDTH, sum);
  }
}

// Calls a template for `rows` rows, at most ROWS.
#ifdef __AVX512F__
#define WITH_ROWS(rows, CALL)                                                        \
  switch (rows) {                                                                    \
    case 12: CALL(12); break; case 11: CALL(11); break; case 10: CALL(10); break;    \
    case 9: CALL(9); break; case 8: CALL(8); break; case 7: CALL(7); break;          \
    case 6: CALL(6); break; case 5: CALL(5); break; case 4: CALL(4); break;          \
    case 3: CALL(3); break; case 2: CALL(2); break; default: CALL(1);                \
  }
#else
#define WITH_ROWS(rows, CALL)                                                        \
  switch (rows) {                                                                    \
    case 6: CALL(6); break; case 5: CALL(5); break; case 4: CALL(4); break;          \
    case 3: CALL(3); break; case 2: CALL(2); break; default: CALL(1);                \
  }
#endif

// The next panel is fetched while this one is multiplied: each tile fetches its share.
inline void prefetch(const float* panel, long inputs, long number, long tiles) {
  long bytes = inputs * PANEL * (long)sizeof(float);
  long share = rounded_up((bytes + tiles - 1) / tiles, 64);
  const char* from = (const char*)panel + number * share;
  for (long i = 0; i < share && number * share + i < bytes; i += 64)
    _mm_prefetch(from + i, _MM_HINT_T1);
}

// x [rows, inputs]; y and residual [rows, outputs]; outputs is a multiple of PANEL.
// weights [outputs / PANEL, inputs, PANEL]; see pack.h.
void linear(const float* x, long rows, long inputs, const float* weights, const float* bias,
            long outputs, float* y, int activation, const float* residual) {
  for (long top = 0; top < rows; top += BLOCK) {
    long bottom = least(rows, top + BLOCK), tiles = (bottom - top + ROWS - 1) / ROWS;
    for (long k = 0; k < inputs; k += INPUTS) {
      long some = least(INPUTS, inputs - k);
      for (long n = 0; n < outputs; n += PANEL) {
        const float* panel = weights + n * inputs + k * PANEL;
        for (long m = top; m < bottom; m += ROWS) {
          if (n + PANEL < outputs)
            prefetch(panel + inputs * PANEL, some, (m - top) / ROWS, tiles);
          Ends ends = {bias + n, residual ? residual + m * outputs + n : nullptr, k == 0,
                       k + some == inputs, activation};
#define CALL(R) tile<R>(x + m * inputs + k, inputs, panel, some, y + m * outputs + n, outputs, ends)
          WITH_ROWS(least(ROWS, bottom - m), CALL)
#undef CALL
        }
      }
    }
  }
}

}  // namespace
