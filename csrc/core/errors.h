/* Errors inside the core are exceptions with one line; at the C ABI they become a return value.
 * Without exceptions (WebAssembly) an error ends the call in the host: wasm/host.cpp. */
#pragma once

#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace bitsr {

/* Names come from the file: no line breaks, no escapes for a terminal. */
inline void make_printable(char* text) {
  for (char* c = text; *c; c++)
    if (*c < ' ' || *c > '~') *c = '?';
}

#if defined(__cpp_exceptions)

[[noreturn]] inline void fail(const std::string& why) { throw std::runtime_error(why); }
[[noreturn]] inline void no_memory() { throw std::bad_alloc(); }

/* f(), or `otherwise` with one line in err: no exception crosses the C ABI. */
template <class R, class F>
R guarded(R otherwise, char* err, size_t cap, F f) {
  const char* why = "no memory";
  std::string text;
  try {
    return f();
  } catch (const std::bad_alloc&) {
  } catch (const std::exception& e) {
    try {
      text = e.what();
      why = text.c_str();
    } catch (const std::bad_alloc&) {
    }
  }
  if (err && cap) {
    std::snprintf(err, cap, "%s", why);
    make_printable(err);
  }
  return otherwise;
}

#else

[[noreturn]] void fail(const std::string& why);
[[noreturn]] void no_memory();

template <class R, class F>
R guarded(R, char*, size_t, F f) {
  return f();
}

#endif

}  // namespace bitsr
