// Vectors of floats, and of the instruction set that this file is compiled for.
//
// Everything in these headers has internal linkage: two libraries that are compiled for different
// processors must not share a function.
#pragma once
#include <immintrin.h>

#define UNROLL _Pragma("GCC unroll 16")

namespace {

#ifdef __AVX512F__
using Floats = __m512;
constexpr long WIDTH = 16;
constexpr long ROWS = 12;  // of a tile: 24 of 32 registers hold its sums

inline Floats all(float x) { return _mm512_set1_ps(x); }
inline Floats zero() { return _mm512_setzero_ps(); }
inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Floats x) { _mm512_storeu_ps(p, x); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// Of max and min the second operand is the result if one is not a number.
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats round(Floats x) { return _mm512_roundscale_ps(x, 8); }
inline Floats two_to(Floats n) {  // 2ⁿ of whole numbers from -126 to 127
  __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}
#else
using Floats = __m256;
constexpr long WIDTH = 8;
constexpr long ROWS = 6;  // of a tile: 12 of 16 registers hold its sums

inline Floats all(float x) { return _mm256_set1_ps(x); }
inline Floats zero() { return _mm256_setzero_ps(); }
inline Floats load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Floats x) { _mm256_storeu_ps(p, x); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
// Of max and min the second operand is the result if one is not a number.
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats round(Floats x) { return _mm256_round_ps(x, 8); }
inline Floats two_to(Floats n) {  // 2ⁿ of whole numbers from -126 to 127
  __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
#endif

#ifdef __AVX512BF16__
using Half = unsigned short;  // the bits of a bfloat16

inline Floats load(const Half* p) {
  __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

inline void store(Half* p, Floats x) {
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(x));
}
#endif

constexpr long PANEL = 2 * WIDTH;  // outputs that a tile computes

inline Floats places() {  // 0 to WIDTH - 1
  float each[WIDTH];
  for (long i = 0; i < WIDTH; i++) each[i] = (float)i;
  return load(each);
}

inline float sum(__m128 x) {
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

inline float largest(__m128 x) {
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

inline float sum(__m256 x) {
  return sum(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}

inline float largest(__m256 x) {
  return largest(_mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1)));
}

#ifdef __AVX512F__
inline float sum(__m512 x) {
  return sum(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}

inline float largest(__m512 x) {
  return largest(_mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
#endif

inline float largest(const float* p, long count) {  // a multiple of WIDTH
  Floats most = load(p);
  for (long i = WIDTH; i < count; i += WIDTH) most = max(most, load(p + i));
  return largest(most);
}

inline float smallest(Floats x) { return -largest(sub(zero(), x)); }

inline long least(long a, long b) { return a < b ? a : b; }

inline long rounded_up(long x, long step) { return (x + step - 1) / step * step; }

}  // namespace
