/* Training's work among threads, and the memory that each keeps. */
#pragma once

#include <algorithm>
#include <atomic>
#include <new>
#include <thread>
#include <vector>

#include "common/array.h"

namespace bitsr::train {
namespace {

/* work(from, to, part) over [0, n), each thread a part. Throws where a part did. */
template <class Work>
void parallel_for(int n, int threads, Work work) {
  threads = threads < n ? std::max(threads, 1) : n;
  std::atomic<bool> failed{false};
  const auto part = [&](int i) {
    try {
      work(int(int64_t(n) * i / threads), int(int64_t(n) * (i + 1) / threads), i);
    } catch (...) {
      failed = true;
    }
  };
  std::vector<std::thread> others;
  others.reserve(size_t(threads));
  for (int i = 1; i < threads; i++) try {
      others.emplace_back(part, i);
    } catch (...) { /* there is no thread to be had */
      part(i);
    }
  part(0);
  for (std::thread& t : others) t.join();
  if (failed) throw std::bad_alloc();
}

/* Grows, and is kept by each thread that trains: the next layer is as large. */
template <class T>
T* grown(Array<T>& array, size_t n) {
  return array.size() >= n || array.resize(n) ? array.data() : nullptr;
}

}  // namespace
}  // namespace bitsr::train
