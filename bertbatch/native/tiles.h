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

#else

constexpr long GROUP = ROWS;  // rows at a time

struct WithTiles {  // nothing is needed
  WithTiles() {}
};

#endif

}  // namespace
