// The tiles of AMX, and how many rows are multiplied at a time with them or without.
#pragma once
#include "vectors.h"

namespace {

#ifdef __AMX_TILE__

constexpr long GROUP = 32;  // rows at a time

struct alignas(64) Tiles {
  unsigned char palette, start, reserved[14];
  unsigned short bytes[16];
  unsigned char rows[16];
};

// Eight tiles of 16 rows of 64 bytes, until the end of the scope. Then the tiles are as before:
// other libraries keep theirs from call to call.
class WithTiles {
 public:
  WithTiles() {
    _tile_storeconfig(&before);
    Tiles ours = {};
    ours.palette = 1;
    for (int i = 0; i < 8; i++) ours.bytes[i] = 64, ours.rows[i] = 16;
    _tile_loadconfig(&ours);
  }
  ~WithTiles() {
    if (before.palette)
      _tile_loadconfig(&before);
    else
      _tile_release();
  }

 private:
  Tiles before;
};

// sums[GROUP][PANEL] = x[GROUP][inputs] · panel, 64 bytes of the inputs at a time. `between` is
// called after each step: the tiles multiply meanwhile.
template <class Input, class Weight, class Sum, class Between>
inline void tile_products(const Input* x, long stride, const Weight* panel, long inputs, Sum* sums,
                          long sums_stride, Between between) {
  constexpr long step = 64 / (long)sizeof(Input);
  const long row = stride * (long)sizeof(Input), line = 2 * 64;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (long k = 0; k < inputs; k += step, panel += step * PANEL) {
    _tile_loadd(4, x + k, row);
    _tile_loadd(5, x + 16 * stride + k, row);
    _tile_loadd(6, panel, line);
    _tile_loadd(7, (const char*)panel + 64, line);
    if constexpr (sizeof(Input) == 1) {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    between();
  }
  const long to = sums_stride * (long)sizeof(Sum);
  _tile_stored(0, sums, to);
  _tile_stored(1, sums + 16, to);
  _tile_stored(2, sums + 16 * sums_stride, to);
  _tile_stored(3, sums + 16 * sums_stride + 16, to);
}

#else

// Rows at a time: fewer than of float32's tiles, for products of bytes need registers in between.
constexpr long GROUP = WIDTH / 2;

struct WithTiles {  // nothing is needed
  WithTiles() {}
};

#endif

}  // namespace
