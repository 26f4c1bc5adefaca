// Sums over the weights of attention while they are in registers, for statistics.
#pragma once
#include "functions.h"

namespace {

// The sums of a sequence and a head, by their place; engines/one_pass.py has the same.
enum Sum {
  ENTROPY, MAX_WEIGHT, SQUARES, DISTANCE, PREVIOUS, SELF, NEXT, RECEIVED,
  OF_KINDS,  // one for each kind of key
  MOST_RECEIVED = 15, SUMS = 16
};
constexpr long KINDS = 4;
constexpr long SECOND = 3;  // the kind of the keys in the second segment

struct Statistics {  // of all sequences; no sums are wanted if `sums` is null
  const float* kinds;     // [KINDS, stride]: whether a token is of a kind, 1 or 0
  long stride;            // of kinds: as many as there are tokens, and PANEL more
  const float* counted;   // [tokens]: whether a query counts, 1 or 0
  const long* seconds;    // [sequences]: where the second segment begins
  bool over_keys;         // whether what keys receive is wanted, too
  float* sums;            // [sequences, heads, SUMS]
};

struct Watched {  // one sequence and head; sums over its queries are in parts until `finish`
  const float* kinds;
  const float* counted;
  float* received;  // [padded length]: what each key receives from queries that count; or null
  float* sums;
  long stride, second, length, padded;
  Floats spread, squares, distance, masses[KINDS];
  float product;  // of the queries' sums of exponents
};

// A sequence's first token and its length; `received` is memory for the padded length.
inline Watched watched(const Statistics& of, long sequence, long head, long heads, long begin,
                       long length, float* received) {
  const long padded = rounded_up(length, PANEL);
  Watched one = {of.kinds + begin, of.counted + begin, of.over_keys ? received : nullptr,
                 of.sums + (sequence * heads + head) * SUMS, of.stride, of.seconds[sequence],
                 length, padded, zero(), zero(), zero(), {zero(), zero(), zero(), zero()}, 1};
  for (long s = 0; of.over_keys && s < padded; s++) received[s] = 0;
  for (long n = 0; n < SUMS; n++) one.sums[n] = 0;
  return one;
}

// The exponents of a counted query's scores, in their place: exponent(factor · (score - largest)).
// Adds what the query gives to the sums, and returns the sum of its exponents. `also(s, e)` is
// called for each vector of exponents. The exponent of what is below `floor` is as good as zero,
// but not its product with an argument far below.
template <class Exponent, class Also>
inline float watch(float* scores, long query, Watched& of, float factor, float floor,
                   Exponent exponent, Also also) {
  const Floats top = all(largest(scores, of.padded)), scale = all(factor);
  Floats total = zero(), spread = zero(), squares = zero(), distance = zero(), masses[KINDS];
  for (long n = 0; n < KINDS; n++) masses[n] = zero();
  Floats apart = sub(places(), all((float)query));
  for (long s = 0; s < of.padded; s += WIDTH) {
    const Floats x = max(all(floor), mul(sub(load(scores + s), top), scale));
    const Floats e = exponent(x);
    total = add(total, e);
    spread = fma(e, x, spread);
    squares = fma(e, e, squares);
    distance = fma(e, max(apart, sub(zero(), apart)), distance);
    apart = add(apart, all((float)WIDTH));
    UNROLL for (long n = 0; n < KINDS; n++)
      masses[n] = fma(e, load(of.kinds + n * of.stride + s), masses[n]);
    store(scores + s, e);
    also(s, e);
  }
  const float whole = sum(total), share = 1 / whole;
  const Floats shares = all(share);
  for (long s = 0; of.received && s < of.padded; s += WIDTH)
    store(of.received + s, fma(load(scores + s), shares, load(of.received + s)));
  of.spread = fma(spread, shares, of.spread);
  of.squares = fma(squares, mul(shares, shares), of.squares);
  of.distance = fma(distance, shares, of.distance);
  const bool crossing = query >= of.second;
  // What does not go to the second segment goes to the first.
  of.sums[OF_KINDS + SECOND] += crossing;
  for (long n = 0; n < KINDS; n++)
    of.masses[n] = fma(masses[n], all(n == SECOND && crossing ? -share : share), of.masses[n]);
  of.product *= whole;
  if (of.product > 1e30f) {  // sums are from 1 to the number of keys
    of.sums[ENTROPY] += log(of.product);
    of.product = 1;
  }
  of.sums[MAX_WEIGHT] += share;  // the largest exponent is 1, to 1e-4
  of.sums[SELF] += scores[query] * share;
  if (query > 0) of.sums[PREVIOUS] += scores[query - 1] * share;
  if (query + 1 < of.length) of.sums[NEXT] += scores[query + 1] * share;
  return whole;
}

// After the last query. `unit` is what one of the exponent's argument is in nats.
inline void finish(Watched& of, float unit) {
  of.sums[ENTROPY] += log(of.product) - unit * sum(of.spread);
  of.sums[SQUARES] = sum(of.squares);
  of.sums[DISTANCE] = sum(of.distance);
  for (long n = 0; n < KINDS; n++) of.sums[OF_KINDS + n] += sum(of.masses[n]);
  for (long s = 0; of.received && s < of.length; s++) {  // counted keys in all, any of them at most
    const float received = of.received[s];
    of.sums[RECEIVED] += of.counted[s] * received;
    if (!(received <= of.sums[MOST_RECEIVED])) of.sums[MOST_RECEIVED] = received;
  }
}

}  // namespace
