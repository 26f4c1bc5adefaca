// LayerNorm of bfloat16, computed in float32.
#pragma once
#include "products_bfloat16.h"

namespace {

// As `norm`.
void norm_bfloat16(const Half* x, long rows, long size, const float* gain, const float* shift,
                   float epsilon, Half* y) {
  for (long m = 0; m < rows; m++, x += size, y += size) {
    Floats total = zero();
    for (long i = 0; i < size; i += WIDTH) total = add(total, widen(x + i));
    Floats mean = all(sum(total) / size);
    total = zero();
    for (long i = 0; i < size; i += WIDTH) {
      Floats off = sub(widen(x + i), mean);
      total = fma(off, off, total);
    }
    Floats factor = all(1 / __builtin_sqrtf(sum(total) / size + epsilon));
    for (long i = 0; i < size; i += WIDTH)
      narrow(y + i, fma(mul(sub(widen(x + i), mean), factor), load(gain + i), load(shift + i)));
  }
}

}  // namespace
