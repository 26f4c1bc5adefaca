// y = act(x Wᵀ + b) or x Wᵀ + b + residual, in bfloat16, with sums in float32.
//
// What follows a product is computed while the tiles multiply for the next one.
#pragma once
#include "functions.h"
#include "products_bfloat16.h"

namespace {

constexpr long CACHED = 1 << 19;  // weights that are used for all rows at a time: one MiB

struct Following {  // what follows the products of a group of rows, and where its results go
  const float* bias;
  const Half* residual;  // or null
  Half* y;
  long stride, rows;
  int activation;
};

inline void finish(const float* sums, const Following& after, long row) {
  UNROLL for (long j = 0; j < PANEL; j += WIDTH) {
    Floats sum = add(load(sums + row * PANEL + j), load(after.bias + j));
    if (after.residual) sum = add(sum, load(after.residual + row * after.stride + j));
    if (after.activation == GELU) sum = rough_gelu(sum);
    store(after.y + row * after.stride + j, sum);
  }
}

// The bytes that `linear_bfloat16` needs to work with.
long linear_room_bfloat16(long inputs) {
  return GROUP * rounded_up(inputs, STEP) * (long)sizeof(Half);
}

// x [rows, inputs]; y and residual [rows, outputs]; outputs is a multiple of PANEL.
// weights [outputs / PANEL, inputs / 2, PANEL, 2]; see pack.h.
void linear_bfloat16(const Half* x, long rows, long inputs, const Half* weights, const float* bias,
                     long outputs, Half* y, int activation, const Half* residual, Half* room) {
  const WithTiles tiles;
  const long padded = rounded_up(inputs, STEP);
  const long each = (GROUP + padded / STEP - 1) / (padded / STEP);  // rows between two steps
  const long block = CACHED / padded / PANEL * PANEL + PANEL;
  alignas(64) float sums[2][GROUP * PANEL];
  Following before = {};
  long turn = 0;
  for (long left = 0; left < outputs; left += block)
    for (long m = 0; m < rows; m += GROUP) {
      const long some = least(GROUP, rows - m);
      const Half* group = x + m * inputs;
      long stride = inputs;
      if (some < GROUP || padded > inputs) {  // filled up with zeros
        for (long r = 0; r < GROUP; r++)
          for (long k = 0; k < padded; k++)
            room[r * padded + k] = r < some && k < inputs ? group[r * inputs + k] : 0;
        group = room, stride = padded;
      }
      for (long n = left; n < least(outputs, left + block); n += PANEL, turn ^= 1) {
        long row = 0;
        products(group, stride, weights + n * padded, padded, sums[turn], PANEL, [&] {
          for (long stop = least(row + each, before.rows); row < stop; row++)
            finish(sums[turn ^ 1], before, row);
        });
        const long at = m * outputs + n;
        before = {bias + n, residual ? residual + at : nullptr, y + at, outputs, some, activation};
      }
    }
  for (long row = 0; row < before.rows; row++) finish(sums[turn ^ 1], before, row);
}

}  // namespace
