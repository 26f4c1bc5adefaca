// Weights as the kernels read them: panels of outputs, each with its inputs in turn.
#pragma once
#include "vectors.h"

namespace {

// weights [outputs, inputs] into packed [outputs / PANEL, width / TOGETHER, PANEL, TOGETHER]; the
// inputs are filled up with zeros to `width`.
template <long TOGETHER, class Number>
void pack(const Number* weights, long outputs, long inputs, long width, Number* packed) {
  for (long n = 0; n < outputs; n++)
    for (long k = 0; k < width; k++)
      packed[((n / PANEL * width + k / TOGETHER * TOGETHER) * PANEL + n % PANEL * TOGETHER +
              k % TOGETHER)] = k < inputs ? weights[n * inputs + k] : 0;
}

}  // namespace
