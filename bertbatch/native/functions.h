// Functions of vectors.
#pragma once
#include "vectors.h"

namespace {

enum Activation { NONE, GELU };

// erf(x) as x P(x²) / Q(x²), fitted by reweighted least squares to |x| <= 3.92, where float32 has
// reached 1: off by less than 4e-7. What is not a number stays so.
inline Floats erf(Floats x) {
  const float P[] = {2.050085132e-06f, 2.848832524e-04f, 3.765636931e-03f,
                     5.274878732e-02f, 1.904069209e-01f, 1.128379146e+00f};
  const float Q[] = {3.809171965e-05f, 1.162540451e-03f, 1.496925738e-02f,
                     1.141093030e-01f, 5.020764810e-01f, 1.f};
  x = max(all(-3.92f), min(all(3.92f), x));
  Floats square = mul(x, x), p = all(P[0]), q = all(Q[0]);
  for (int i = 1; i < 6; i++) p = fma(p, square, all(P[i])), q = fma(q, square, all(Q[i]));
  return div(mul(x, p), q);
}

// x (1 + erf(x / √2)) / 2: the exact GELU of BERT, https://arxiv.org/abs/1606.08415
inline Floats gelu(Floats x) {
  Floats half = mul(x, all(.5f));
  return fma(half, erf(mul(x, all(.70710678f))), half);
}

// 1 / x, to 1e-4 of it.
inline Floats rough_reciprocal(Floats x) {
#ifdef __AVX512F__
  return _mm512_rcp14_ps(x);
#else
  Floats near = _mm256_rcp_ps(x);
  return mul(near, sub(all(2), mul(x, near)));
#endif
}

// GELU to 1e-4 for |x| <= 4, for results that are rounded to 8 bits: x (1/2 + x P(x²) / Q(x²)),
// fitted by reweighted least squares to |x| <= 4.2. What is not a number stays so.
inline Floats rough_gelu(Floats x) {
  const float P[] = {2.885483634e-3f, 4.104150517e-2f, 3.985997559e-1f};
  const float Q[] = {4.442143740e-4f, 2.832599019e-2f, 2.675771511e-1f, 1.f};
  Floats near = max(all(-4.2f), min(all(4.2f), x));
  Floats square = mul(near, near), p = all(P[0]), q = all(Q[0]);
  for (int i = 1; i < 3; i++) p = fma(p, square, all(P[i]));
  for (int i = 1; i < 4; i++) q = fma(q, square, all(Q[i]));
  Floats share = fma(mul(near, p), rough_reciprocal(q), all(.5f));
  return mul(x, share);
}

#ifdef __AVX512F__
// 2ˣ to 1e-4 of it, for results that are rounded to bfloat16: a cubic fitted to |x| <= 1/2,
// times a power of two. What is not a number stays so.
inline Floats rough_exp2(Floats x) {
  const float P[] = {5.517042520e-2f, 2.426093768e-1f, 6.932610162e-1f, 9.999281888e-1f};
  Floats n = round(x), part = sub(x, n), p = all(P[0]);
  for (int i = 1; i < 4; i++) p = fma(p, part, all(P[i]));
  return _mm512_scalef_ps(p, n);
}
#endif

// eˣ of x <= 0, to 2 units in the last place; below -87 it is e⁻⁸⁷. What is not a number stays so.
// The polynomial is that of expf in Cephes, https://www.netlib.org/cephes/
inline Floats exp(Floats x) {
  x = max(all(-87.f), x);
  Floats n = round(mul(x, all(1.44269504f)));
  x = fma(n, all(-0.693359375f), x);
  x = fma(n, all(2.12194440e-4f), x);
  const float P[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                     4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  Floats p = all(P[0]);
  for (int i = 1; i < 6; i++) p = fma(p, x, all(P[i]));
  p = fma(p, mul(x, x), add(x, all(1)));
  return mul(p, two_to(n));
}

// ln x of x >= 1, to 1e-7: 2 artanh z with z = (m - 1) / (m + 1) for x = m 2ⁿ, 2/3 <= m < 4/3, by
// the artanh's power series. What is not a number stays so.
inline float log(float x) {
  const int bits = _mm_cvtsi128_si32(_mm_castps_si128(_mm_set_ss(x)));
  int n = (bits >> 23) - 127;
  float m = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128((bits & 0x7fffff) | 127 << 23)));
  if (m >= 4.f / 3) m *= .5f, n++;
  const float z = (m - 1) / (m + 1), square = z * z;
  const float P[] = {1.f / 9, 1.f / 7, 1.f / 5, 1.f / 3, 1.f};
  float series = 0;
  for (int i = 0; i < 5; i++) series = series * square + P[i];
  return (float)n * .69314718f + 2 * z * series + (x - x);
}

}  // namespace
