# A toolchain file for builds on one machine for another, by the zig of PyPI (`pip install ziglang`):
#   cmake -S . -B build-windows -DCMAKE_TOOLCHAIN_FILE=cmake/zig.cmake -DBITSR_TARGET=x86_64-windows-gnu
# BITSR_TARGET is zig's: x86_64- or aarch64-, then linux-gnu, linux-gnu.2.28, linux-musl, macos, windows-gnu.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES BITSR_TARGET Python_EXECUTABLE)
string(REGEX MATCH "^([a-z0-9_]+)-([a-z]+)" _ "${BITSR_TARGET}")
set(CMAKE_SYSTEM_PROCESSOR ${CMAKE_MATCH_1})
if(CMAKE_MATCH_2 STREQUAL "windows")
  set(CMAKE_SYSTEM_NAME Windows)
elseif(CMAKE_MATCH_2 STREQUAL "macos")
  set(CMAKE_SYSTEM_NAME Darwin)
else()
  set(CMAKE_SYSTEM_NAME Linux)
endif()
find_program(Python_EXECUTABLE NAMES python3 python REQUIRED)
set(CMAKE_CXX_COMPILER ${Python_EXECUTABLE} -m ziglang c++ -target ${BITSR_TARGET})
