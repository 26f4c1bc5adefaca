// The C interface of the kernels. All run in the calling thread, on memory that the caller owns.
#include "attention.h"
#include "int8.h"
#include "linear.h"
#include "norm.h"
#include "pack.h"
#ifdef __AVX512BF16__
#include "attention_bfloat16.h"
#include "linear_bfloat16.h"
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* bertbatch_version() { return BERTBATCH_VERSION; }

EXPORT long bertbatch_panel() { return PANEL; }

EXPORT void bertbatch_pack(const float* weights, long outputs, long inputs, float* packed) {
  pack<1>(weights, outputs, inputs, inputs, packed);
}

EXPORT void bertbatch_linear(const float* x, long rows, long inputs, const float* weights,
                             const float* bias, long outputs, float* y, int activation,
                             const float* residual) {
  linear(x, rows, inputs, weights, bias, outputs, y, activation, residual);
}

EXPORT long bertbatch_attention_room(long longest, long size) {
  return attention_room(longest, size);
}

EXPORT void bertbatch_attention(const float* query, const float* key, const float* value,
                                long stride, const long* bounds, long sequences, long heads,
                                long size, float scale, long reach, float* out, const float* kinds,
                                long kinds_stride, const float* counted, const long* seconds,
                                int over_keys, float* sums, float* room) {
  const Statistics statistics = {kinds, kinds_stride, counted, seconds, over_keys != 0, sums};
  attention(query, key, value, stride, bounds, sequences, heads, size, scale, reach, out, statistics,
            room);
}

EXPORT void bertbatch_norm(const float* x, long rows, long size, const float* gain,
                           const float* shift, float epsilon, float* y) {
  norm(x, rows, size, gain, shift, epsilon, y);
}

EXPORT long bertbatch_int8_steps() { return STEPS; }

EXPORT long bertbatch_packed_int8(long outputs, long inputs) {
  return outputs * rounded_up(inputs, DEPTH);
}

EXPORT void bertbatch_pack_int8(const signed char* weights, long outputs, long inputs,
                                signed char* packed) {
  pack<4>(weights, outputs, inputs, rounded_up(inputs, DEPTH), packed);
}

EXPORT long bertbatch_int8_room(long inputs) { return int8_room(inputs); }

EXPORT void bertbatch_linear_int8(const float* x, long rows, long inputs,
                                  const signed char* weights, const float* scales,
                                  const float* columns, const float* bias, long outputs, float* y,
                                  int activation, const float* residual, Byte* room) {
  const Layer8 layer = {weights, scales, columns, bias, inputs, outputs, activation};
  linear_int8(x, rows, layer, y, residual, room);
}

#ifdef __AVX512BF16__

EXPORT long bertbatch_packed_bfloat16(long outputs, long inputs) {
  return outputs * rounded_up(inputs, STEP);
}

EXPORT void bertbatch_pack_bfloat16(const Half* weights, long outputs, long inputs,
                                    Half* packed) {
  pack<2>(weights, outputs, inputs, rounded_up(inputs, STEP), packed);
}

EXPORT long bertbatch_linear_room_bfloat16(long inputs) {
  return linear_room_bfloat16(inputs);
}

EXPORT void bertbatch_linear_bfloat16(const Half* x, long rows, long inputs, const Half* weights,
                                      const float* bias, long outputs, Half* y, int activation,
                                      const Half* residual, Half* room) {
  linear_bfloat16(x, rows, inputs, weights, bias, outputs, y, activation, residual, room);
}

EXPORT long bertbatch_attention_room_bfloat16(long longest, long size) {
  return attention_room_bfloat16(longest, size);
}

EXPORT void bertbatch_attention_bfloat16(const Half* query, const Half* key, const Half* value,
                                         long stride, const long* bounds, long sequences,
                                         long heads, long size, float scale, long reach, Half* out,
                                         const float* kinds, long kinds_stride,
                                         const float* counted, const long* seconds, int over_keys,
                                         float* sums, char* room) {
  const Statistics statistics = {kinds, kinds_stride, counted, seconds, over_keys != 0, sums};
  attention_bfloat16(query, key, value, stride, bounds, sequences, heads, size, scale, reach, out,
                     statistics, room);
}

EXPORT void bertbatch_norm_bfloat16(const Half* x, long rows, long size, const float* gain,
                                    const float* shift, float epsilon, Half* y) {
  norm(x, rows, size, gain, shift, epsilon, y);
}

#endif
