/* Memory for kernels: aligned arrays that never throw.
 *
 * Headers of csrc/common and csrc/kernels are compiled with the flags of every path. A function of
 * theirs that were emitted as a shared symbol could be linked in the form of the best path and run
 * on a CPU without it: so free functions are static, members inlined.
 */
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define BITSR_INLINE inline __attribute__((always_inline))

namespace bitsr {

/* 64-byte aligned array of zeros, no byte longer than asked for (so that AddressSanitizer sees
 * every overrun); never throws: data() is null when there is no memory. */
template <class T>
class Array {
 public:
  Array() = default;
  BITSR_INLINE bool resize(size_t n) {
    data_.reset();
    size_ = 0;
    if (n > SIZE_MAX / sizeof(T)) return false;
    data_.reset(static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64), std::nothrow)));
    if (!data_) return false;
#if defined(__linux__)
    /* The rings of a wide image are more small pages than a TLB holds. */
    const uintptr_t page = size_t(2) << 20,
                    from = reinterpret_cast<uintptr_t>(data_.get()) + page - 1;
    const uintptr_t first = from - from % page, last = reinterpret_cast<uintptr_t>(data_.get() + n);
    if (first + page <= last)
      madvise(reinterpret_cast<void*>(first), last - first - (last - first) % page, MADV_HUGEPAGE);
#endif
    std::memset(data_.get(), 0, n * sizeof(T));
    size_ = n;
    return true;
  }
  BITSR_INLINE T* data() { return data_.get(); }
  BITSR_INLINE const T* data() const { return data_.get(); }
  BITSR_INLINE size_t size() const { return size_; }
  BITSR_INLINE T& operator[](size_t i) { return data_.get()[i]; }
  BITSR_INLINE const T& operator[](size_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace bitsr
