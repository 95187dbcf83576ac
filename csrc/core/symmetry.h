/* The eight orientations of a square, for weights that are stored once for all of them: as in src/bitsr/turns.py. */
#pragma once

#include <cstring>

namespace bitsr {

/* Matrices (a, b, c, d) on offsets (y, x); the first is the identity. Channel 8 f + i is field f in orientation i. */
constexpr int TURNS = 8;
constexpr int ORIENTATIONS[TURNS][4] = {{1, 0, 0, 1}, {1, 0, 0, -1}, {-1, 0, 0, 1}, {-1, 0, 0, -1},
                                        {0, 1, 1, 0}, {0, 1, -1, 0}, {0, -1, 1, 0}, {0, -1, -1, 0}};

/* Where orientation i takes channel c. */
static inline int turned_channel(int i, int c) {
  const int *m = ORIENTATIONS[i], *n = ORIENTATIONS[c % TURNS];
  const int product[4] = {m[0] * n[0] + m[1] * n[2], m[0] * n[1] + m[1] * n[3], m[2] * n[0] + m[3] * n[2],
                          m[2] * n[1] + m[3] * n[3]};
  int j = 0;
  while (std::memcmp(ORIENTATIONS[j], product, sizeof product)) j++;
  return c - c % TURNS + j;
}

/* Where it takes a tap of k x k. */
static inline int turned_tap(int i, int k, int tap) {
  const int *m = ORIENTATIONS[i], side = k / 2, y = tap / k - side, x = tap % k - side;
  return (m[0] * y + m[1] * x + side) * k + m[2] * y + m[3] * x + side;
}

}  // namespace bitsr
