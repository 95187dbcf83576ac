/* The gate of channel attention, in integers. */
#include "core/attention.h"

#include <algorithm>
#include <cmath>

#include "core/errors.h"
#include "kernels/rows.h"

namespace bitsr {
namespace {

/* One layer of the gate's perceptron: sat(shift(bias + sum w x, s)), sums modulo 2^32. */
int16_t neuron(const int16_t* weight, const int16_t* x, int n, int32_t bias, int shift) {
  uint32_t sum = uint32_t(bias) + (uint32_t(1) << (shift - 1));
  for (int i = 0; i < n; i++) sum += uint32_t(weight[i] * x[i]);
  return sat16(int32_t(sum) >> shift);
}

/* 32767 / (1 + exp(-z / 2048)), linear between multiples of 128. */
int16_t sigmoid(int16_t z) {
  struct Table {
    int at[513];
    Table() {
      for (int i = 0; i <= 512; i++)
        at[i] = int(std::lround(32767 / (1 + std::exp(-(128 * i - 32768) / 2048.0))));
    }
  };
  static const Table table;
  const int i = (z + 32768) >> 7, f = (z + 32768) & 127;
  return int16_t(table.at[i] + (((table.at[i + 1] - table.at[i]) * f + 64) >> 7));
}

}  // namespace

Gate::Gate(const Attention& attention) : a_(attention) {
  const size_t padded = size_t(round_up(a_.channels, 64));
  if (!sums_.resize(padded) || !mean_.resize(padded) || !gate_.resize(padded) ||
      !hidden_.resize(size_t(a_.hidden)))
    no_memory();
}

void Gate::begin() {
  std::fill(sums_.data(), sums_.data() + sums_.size(), 0);
  rows_ = 0;
  done_.store(false, std::memory_order_relaxed);
}

void Gate::add(const int16_t* x, int h, int w) {
  for (size_t c = 0; c < sums_.size(); c += 64) {
    int64_t sum[64] = {};
    sum_row(x + c, size_t(w), sums_.size(), sum);
    const std::lock_guard<Mutex> lock(mutex_);
    for (size_t i = 0; i < 64; i++) sums_[c + i] += sum[i];
    if (c + 64 == sums_.size() && ++rows_ == h) make(int64_t(h) * w);
  }
}

void Gate::make(int64_t pixels) {
  for (int c = 0; c < a_.channels; c++) {
    const int64_t v = sums_[size_t(c)] + pixels / 2;
    mean_[size_t(c)] = int16_t(v / pixels - (v % pixels < 0)); /* rounded down */
  }
  for (int i = 0; i < a_.hidden; i++) {
    const size_t at = size_t(i);
    const int16_t v = neuron(a_.down.data() + at * size_t(a_.channels), mean_.data(), a_.channels,
                             a_.down_bias[at], a_.down_shift);
    hidden_[at] = v < 0 ? mulh(v, a_.slope[at]) : v;
  }
  for (int c = 0; c < a_.channels; c++) {
    const size_t at = size_t(c);
    gate_[at] = sigmoid(neuron(a_.up.data() + at * size_t(a_.hidden), hidden_.data(), a_.hidden,
                               a_.up_bias[at], a_.up_shift));
  }
  done_.store(true, std::memory_order_release);
}

}  // namespace bitsr
