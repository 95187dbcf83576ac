/* What training's float convolutions are made of (winograd.cpp). */
#pragma once

#include "kernels.h"

namespace bitsr {

/* Winograd's F(4x4, 3x3) (Lavin and Gray 2015, arXiv 1509.09308): the 36 numbers of a tile, by rows of 6, are `plane`
 * floats apart, its channels side by side; c and o, input and output channels, are multiples of 32. */
struct Winograd {
  bool (*available)();
  /* to = B^T d B of the 6x6 pixels d from row y, column x of a picture (h, w, c), zeros around it */
  void (*enter)(const float* picture, int h, int w, int c, int y, int x, float* to, size_t plane);
  /* products[36] (tiles, o) = tiles v[36] (tiles, c) times filters (36, c, o); tiles: a multiple of 6 */
  void (*multiply)(const float* v, size_t plane, int tiles, const float* filters, int c, int o, float* products,
                   size_t product_plane);
  /* the first rows x cols pixels of A^T m A, plus bias (o), to y, whose rows are w pixels apart */
  void (*leave)(const float* m, size_t plane, int o, const float* bias, int rows, int cols, float* y, int w);
  /* The way back of leave: to = A g A^T of rows x cols pixels g, zeros beyond them */
  void (*back)(const float* g, int w, int o, int rows, int cols, float* to, size_t plane);
  /* The way back of multiply: filters (36, c, o) += v^T m */
  void (*correlate)(const float* v, size_t plane, const float* m, size_t m_plane, int tiles, int c, int o,
                    float* filters);
};

extern const Winograd avx2_winograd;

}  // namespace bitsr
