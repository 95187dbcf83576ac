/* Threads of the platform, or their absence: WebAssembly without shared memory has one. */
#pragma once

#if defined(__wasm__)

#include <cstddef>

namespace bitsr {

struct Mutex {
  void lock() {}
  bool try_lock() { return true; }
  void unlock() {}
};

inline void yield() {}

class Helpers {
 public:
  void reserve(size_t) {}
  template <class F>
  bool start(F) {
    return false;
  }
  void join() {}
};

}  // namespace bitsr

#else

#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace bitsr {

using Mutex = std::mutex;

inline void yield() { std::this_thread::yield(); }

/* Threads beside the one that starts them. */
class Helpers {
 public:
  void reserve(size_t n) { threads_.reserve(n); }
  /* One that runs f; false: there are no more threads, or no memory for one. */
  template <class F>
  bool start(F f) {
    try {
      threads_.emplace_back(f);
    } catch (const std::exception&) {
      return false;
    }
    return true;
  }
  void join() {
    for (auto& t : threads_) t.join();
    threads_.clear();
  }

 private:
  std::vector<std::thread> threads_;
};

}  // namespace bitsr

#endif
