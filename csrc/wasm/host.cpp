/* What the core has in WebAssembly instead of exceptions: an error ends the call.
 *
 * fail() hands its line to the host's function `fail` of the module "bitsr", which does not return:
 * it throws, and leaves the frames of the core as they are. An instance that has failed is not
 * called again; its memory goes with it.
 */
#include <cstdarg>
#include <cstdlib>
#include <new>

#include "core/errors.h"

extern "C" __attribute__((import_module("bitsr"), import_name("fail"), noreturn)) void host_fail(
    const char* text);

namespace bitsr {
namespace {

constexpr size_t LINE = 256;

[[noreturn]] void end(const char* why, va_list values) {
  char line[LINE];
  std::vsnprintf(line, LINE, why, values);
  make_printable(line);
  host_fail(line);
}
[[noreturn]] void end(const char* why, ...) {
  va_list values;
  va_start(values, why);
  end(why, values);
}

void* allocate(size_t n, size_t align, bool must) {
  /* aligned_alloc wants a multiple of the alignment */
  void* p = n > SIZE_MAX - align ? nullptr
            : align > alignof(std::max_align_t)
                ? std::aligned_alloc(align, (n + align - 1) / align * align)
                : std::malloc(n ? n : 1);
  if (!p && must) no_memory();
  return p;
}

}  // namespace

void fail(const std::string& why) { end("%s", why.c_str()); }
void no_memory() { end("no memory"); }

}  // namespace bitsr

void* operator new(size_t n) { return bitsr::allocate(n, 1, true); }
void* operator new(size_t n, std::align_val_t align) {
  return bitsr::allocate(n, size_t(align), true);
}
void* operator new(size_t n, const std::nothrow_t&) noexcept {
  return bitsr::allocate(n, 1, false);
}
void* operator new(size_t n, std::align_val_t align, const std::nothrow_t&) noexcept {
  return bitsr::allocate(n, size_t(align), false);
}
void* operator new[](size_t n) { return bitsr::allocate(n, 1, true); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, size_t, std::align_val_t) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete[](void* p, size_t) noexcept { std::free(p); }

/* Where the standard library would throw, of lengths and indices that the core never asks for. */
void std::__libcpp_verbose_abort(const char* format, ...) noexcept {
  va_list values;
  va_start(values, format);
  bitsr::end(format, values);
}
