/* fail_allocation MODEL: opens it and runs an image, once for every allocation that this takes,
 * which then fails. Each time there must be "no memory" or the right image. Prints a line a stage;
 * ends with 1 at the first fault. */
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "bitsr.h"

extern "C" {
void* __libc_malloc(size_t n);
void* __libc_calloc(size_t n, size_t size);
void* __libc_memalign(size_t align, size_t n);
}

namespace {

std::atomic<long> left{-1}, count{0}; /* allocations until one fails; -1: none does */

bool fails() {
  count++;
  return left >= 0 && left-- == 0;
}
template <class F>
void* allocated(F f) {
  if (!fails()) return f();
  errno = ENOMEM;
  return nullptr;
}

constexpr int H = 9, W = 11, THREADS = 3;
enum Stage { OPEN, BEGIN, PUSH, STAGES };

/* The image, or an empty one and the reason in err; allocation `at` of a stage fails. */
std::vector<int16_t> run(const std::string& file, int stage, long at, char* err) {
  std::vector<int16_t> lr(H * W), out;
  for (size_t i = 0; i < lr.size(); i++) lr[i] = int16_t(i * 2654435761u >> 7);
  const auto arm = [&](int now) {
    if (now == stage) count = 0, left = at;
  };
  const auto disarm = [&](int now) {
    if (now == stage) left = -1;
  };
  arm(OPEN);
  bitsr_model* model = bitsr_model_open(file.data(), file.size(), nullptr, err, 256);
  disarm(OPEN);
  if (!model) return out;
  arm(BEGIN);
  bitsr_stream* stream = bitsr_stream_open(model, H, W, THREADS, 0, err, 256);
  disarm(BEGIN);
  if (stream) {
    const int s = bitsr_model_scale(model);
    std::vector<int16_t> sr(size_t(H * s) * size_t(W * s));
    arm(PUSH);
    const int made = bitsr_stream_push(stream, lr.data(), H, sr.data(), H * s, err, 256);
    disarm(PUSH);
    if (made == H * s) out = sr;
    bitsr_stream_close(stream);
  }
  bitsr_model_close(model);
  return out;
}

}  // namespace

extern "C" {
void* malloc(size_t n) {
  return allocated([=] { return __libc_malloc(n); });
}
void* calloc(size_t n, size_t size) {
  return allocated([=] { return __libc_calloc(n, size); });
}
void* aligned_alloc(size_t align, size_t n) {
  return allocated([=] { return __libc_memalign(align, n); });
}
int posix_memalign(void** out, size_t align, size_t n) {
  *out = allocated([=] { return __libc_memalign(align, n); });
  return *out ? 0 : ENOMEM;
}
}

int main(int, char** argv) {
  std::ifstream in(argv[1], std::ios::binary);
  const std::string file((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  char err[256] = "";
  const std::vector<int16_t> right = run(file, STAGES, -1, err);
  if (right.empty()) return std::printf("%s\n", err), 1;
  for (int stage = 0; stage < STAGES; stage++) {
    run(file, stage, -1, err);
    const long total = count;
    long refused = 0;
    for (long at = 0; at < total; at++) {
      err[0] = 0;
      const auto got = run(file, stage, at, err);
      const bool no_memory = got.empty() && !std::strcmp(err, "no memory");
      if (!no_memory && got != right)
        return std::printf("stage %d, allocation %ld: %s\n", stage, at,
                           got.empty() ? err : "wrong picture"),
               1;
      refused += no_memory;
    }
    std::printf("stage %d: %ld allocations, %ld refused\n", stage, total, refused);
  }
}
