// LayerNorm of float32 or bfloat16, computed in float32.
#pragma once
#include "vectors.h"

namespace {

// (x - mean) / √(variance + epsilon) · gain + shift of each row of x [rows, size], into y;
// size is a multiple of WIDTH.
template <class Number>
void norm(const Number* x, long rows, long size, const float* gain, const float* shift,
          float epsilon, Number* y) {
  for (long m = 0; m < rows; m++, x += size, y += size) {
    Floats total = zero();
    for (long i = 0; i < size; i += WIDTH) total = add(total, load(x + i));
    Floats mean = all(sum(total) / size);
    total = zero();
    for (long i = 0; i < size; i += WIDTH) {
      Floats off = sub(load(x + i), mean);
      total = fma(off, off, total);
    }
    Floats factor = all(1 / __builtin_sqrtf(sum(total) / size + epsilon));
    for (long i = 0; i < size; i += WIDTH)
      store(y + i, fma(mul(sub(load(x + i), mean), factor), load(gain + i), load(shift + i)));
  }
}

}  // namespace
