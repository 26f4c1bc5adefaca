// Which keys a query attends to, where only near ones count.
#pragma once
#include "vectors.h"

namespace {

// The keys that rows of queries from a place on may attend to, from a multiple of PANEL on.
struct Keys {
  long first, stop;
};

inline Keys near(long place, long rows, long reach, long length) {
  const long first = place > reach ? place - reach : 0;
  const long stop = place + rows + reach;
  return {first / PANEL * PANEL, stop < length ? stop : length};
}

// Scores of keys between `keys` and its end, filled up to `padded`, that are not for this query.
inline void leave_out(float* scores, long query, long reach, Keys keys, long padded) {
  for (long s = keys.first; s < query - reach; s++) scores[s] = -1e30f;
  const long stop = query + reach + 1 < keys.stop ? query + reach + 1 : keys.stop;
  for (long s = stop; s < padded; s++) scores[s] = -1e30f;
}

}  // namespace
