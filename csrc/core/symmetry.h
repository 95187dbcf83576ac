/* The eight orientations of a square, for weights that are stored once for all of them: as in
 * src/bitsr/symmetry.py. */
#pragma once

#include <cstring>

namespace bitsr {

/* Matrices (a, b, c, d) on offsets (y, x); the first is the identity. Channel 8 f + i is field f in
 * orientation i. */
constexpr int ORIENTATIONS = 8;
constexpr int MATRICES[ORIENTATIONS][4] = {{1, 0, 0, 1},   {1, 0, 0, -1}, {-1, 0, 0, 1},
                                           {-1, 0, 0, -1}, {0, 1, 1, 0},  {0, 1, -1, 0},
                                           {0, -1, 1, 0},  {0, -1, -1, 0}};

/* Where orientation i takes channel c. */
static inline int oriented_channel(int i, int c) {
  const int *m = MATRICES[i], *n = MATRICES[c % ORIENTATIONS];
  const int product[4] = {m[0] * n[0] + m[1] * n[2], m[0] * n[1] + m[1] * n[3],
                          m[2] * n[0] + m[3] * n[2], m[2] * n[1] + m[3] * n[3]};
  int j = 0;
  while (std::memcmp(MATRICES[j], product, sizeof product)) j++;
  return c - c % ORIENTATIONS + j;
}

/* Where it takes a tap of k x k. */
static inline int oriented_tap(int i, int k, int tap) {
  const int *m = MATRICES[i], side = k / 2, y = tap / k - side, x = tap % k - side;
  return (m[0] * y + m[1] * x + side) * k + m[2] * y + m[3] * x + side;
}

}  // namespace bitsr
