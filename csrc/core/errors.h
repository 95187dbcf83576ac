/* Errors inside the core are exceptions with one line; at the C ABI they become a return value. */
#pragma once

#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

namespace bitsr {

[[noreturn]] inline void fail(const std::string& why) { throw std::runtime_error(why); }

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
    for (char* c = err; *c;
         c++) /* names come from the file: no line breaks, no escapes for a terminal */
      if (*c < ' ' || *c > '~') *c = '?';
  }
  return otherwise;
}

}  // namespace bitsr
