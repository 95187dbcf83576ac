/* What the machine can do at most, one core: chains of the instructions that matter, without memory in the way.
 * Compiled and called by bench/kernel.py. Each chain has enough independent links to hide latency; KEEP stops
 * the compiler from computing anything ahead. */
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define KEEP(x) asm volatile("" : "+x"(x))
#define KEEP512(x) asm volatile("" : "+v"(x))
#define AVX2 __attribute__((target("avx2,fma,popcnt")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vpopcntdq,avx512vnni")))
#endif
#define KEEP_GENERAL(x) asm volatile("" : "+r"(x))

namespace {

/* One addition a cycle, each waiting for the last: its rate is the clock. */
void clock_chain(long n) {
  uint64_t x = 1, y = 1;
  KEEP_GENERAL(y);
  for (long i = 0; i < n; i++)
    for (int j = 0; j < 16; j++) {
      x += y;
      KEEP_GENERAL(x);
    }
}

void copy(long n, size_t bytes) {
  static std::vector<char> from, to;
  if (from.size() != bytes) {
    from.assign(bytes, 1);
    to.assign(bytes, 2);
  }
  for (long i = 0; i < n; i++) {
    std::memcpy(to.data(), from.data(), bytes);
    asm volatile("" ::"r"(to.data()) : "memory");
  }
}
void copy_cache(long n) { copy(n, 128 << 10); }
void copy_memory(long n) { copy(n, size_t(256) << 20); }

#if defined(__x86_64__)

/* A chain is ten accumulators in registers of their own: an array would live in memory. */
#define TEN(link) link(0) link(1) link(2) link(3) link(4) link(5) link(6) link(7) link(8) link(9)

__attribute__((target("popcnt"))) void popcount_scalar(long n) {
  uint64_t a = 0x0123456789abcdef, w = 0xfedcba9876543210;
  KEEP_GENERAL(w);
#define START(j) uint64_t acc##j = 0;
#define LINK(j)                                 \
  {                                             \
    uint64_t x = a;                             \
    KEEP_GENERAL(x);                            \
    acc##j += uint64_t(__builtin_popcountll(x ^ w)); \
    KEEP_GENERAL(acc##j);                       \
  }
  TEN(START)
  for (long i = 0; i < n; i++) { TEN(LINK) }
#undef START
#undef LINK
}

AVX2 void logic_avx2(long n) {
  __m256i w = _mm256_set1_epi64x(0x5555);
  KEEP(w);
#define START(j) __m256i acc##j = _mm256_set1_epi64x(j);
#define LINK(j)                         \
  acc##j = _mm256_xor_si256(acc##j, w); \
  KEEP(acc##j);
  TEN(START)
  for (long i = 0; i < n; i++) { TEN(LINK) }
#undef START
#undef LINK
}

/* Popcount by nibbles: xor, two look-ups with their masks and shift, two adds; bytes are gathered every 10. */
AVX2 void popcount_avx2(long n) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2,
                                         3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
  __m256i a = _mm256_set1_epi64x(0x0123456789abcdef), w = _mm256_set1_epi64x(0x5555), sum = zero;
  for (long i = 0; i < n; i++) {
    __m256i bytes = zero;
#define LINK(j)                                                                                   \
  {                                                                                               \
    KEEP(a);                                                                                      \
    const __m256i x = _mm256_xor_si256(a, w);                                                     \
    const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));                  \
    const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble)); \
    bytes = _mm256_add_epi8(bytes, _mm256_add_epi8(low, high));                                   \
  }
    TEN(LINK)
    sum = _mm256_add_epi64(sum, _mm256_sad_epu8(bytes, zero));
    KEEP(sum);
#undef LINK
  }
}

AVX2 void fma_avx2(long n) {
  __m256 w = _mm256_set1_ps(0.5f);
  KEEP(w);
#define START(j) __m256 acc##j = _mm256_set1_ps(j);
#define LINK(j)                            \
  acc##j = _mm256_fmadd_ps(acc##j, w, w);  \
  KEEP(acc##j);
  TEN(START)
  for (long i = 0; i < n; i++) { TEN(LINK) }
#undef START
#undef LINK
}

/* int8 dot products without VNNI: maddubs, madd by ones, add. */
AVX2 void int8_avx2(long n) {
  __m256i a = _mm256_set1_epi8(3), w = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
#define START(j) __m256i acc##j = _mm256_setzero_si256();
#define LINK(j)                                                                                     \
  KEEP(a);                                                                                          \
  acc##j = _mm256_add_epi32(acc##j, _mm256_madd_epi16(_mm256_maddubs_epi16(a, w), ones));           \
  KEEP(acc##j);
  TEN(START)
  for (long i = 0; i < n; i++) { TEN(LINK) }
#undef START
#undef LINK
}

AVX512 void logic_avx512(long n) {
  __m512i w = _mm512_set1_epi64(0x5555), v = _mm512_set1_epi64(0x3333);
  KEEP512(w);
#define START(j) __m512i acc##j = _mm512_set1_epi64(j);
#define LINK(j)                                              \
  acc##j = _mm512_ternarylogic_epi64(acc##j, w, v, 0x96);    \
  KEEP512(acc##j);
  TEN(START)
  for (long i = 0; i < n; i++) { TEN(LINK) }
#undef START
#undef LINK
}

AVX512 void popcount_avx512(long n) {
  __m512i a = _mm512_set1_epi64(0x0123456789abcdef), w = _mm512_set1_epi64(0x5555);
#define START(j) __m512i acc##j = _mm512_setzero_si512();
#define LINK(j)                                                                           \
  KEEP512(a);                                                                             \
  acc##j = _mm512_add_epi64(acc##j, _mm512_popcnt_epi64(_mm512_xor_si512(a, w)));         \
  KEEP512(acc##j);
  TEN(START)
  for (long i = 0; i < n; i++) { TEN(LINK) }
#undef START
#undef LINK
}

AVX512 void fma_avx512(long n) {
  __m512 w = _mm512_set1_ps(0.5f);
  KEEP512(w);
#define START(j) __m512 acc##j = _mm512_set1_ps(j);
#define LINK(j)                           \
  acc##j = _mm512_fmadd_ps(acc##j, w, w); \
  KEEP512(acc##j);
  TEN(START)
  for (long i = 0; i < n; i++) { TEN(LINK) }
#undef START
#undef LINK
}

AVX512 void int8_avx512(long n) {
  __m512i a = _mm512_set1_epi8(3), w = _mm512_set1_epi8(5);
  KEEP512(a);
#define START(j) __m512i acc##j = _mm512_setzero_si512();
#define LINK(j)                                  \
  acc##j = _mm512_dpbusd_epi32(acc##j, a, w);    \
  KEEP512(acc##j);
  TEN(START)
  for (long i = 0; i < n; i++) { TEN(LINK) }
#undef START
#undef LINK
}

bool has_popcnt() { return __builtin_cpu_supports("popcnt"); }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni");
}
#endif

bool always() { return true; }

struct Ceiling {
  const char* name;
  const char* unit; /* what one iteration makes `amount` of */
  double amount;
  void (*chain)(long);
  bool (*available)();
};

const Ceiling CEILINGS[] = {
    {"clock", "cycle", 16, clock_chain, always},
#if defined(__x86_64__)
    {"scalar popcount", "MAC", 10 * 64, popcount_scalar, has_popcnt},
    {"avx2 logic", "instruction", 10, logic_avx2, has_avx2},
    {"avx2 popcount", "MAC", 10 * 256, popcount_avx2, has_avx2},
    {"avx2 fp32", "MAC", 10 * 8, fma_avx2, has_avx2},
    {"avx2 int8", "MAC", 10 * 32, int8_avx2, has_avx2},
    {"avx512 logic", "instruction", 10, logic_avx512, has_avx512},
    {"avx512 popcount", "MAC", 10 * 512, popcount_avx512, has_avx512},
    {"avx512 fp32", "MAC", 10 * 16, fma_avx512, has_avx512},
    {"avx512 int8", "MAC", 10 * 64, int8_avx512, has_avx512},
#endif
    {"copy in cache (128 KiB)", "byte", 128 << 10, copy_cache, always},
    {"copy in memory (256 MiB)", "byte", double(256 << 20), copy_memory, always},
};
}  // namespace

extern "C" {

/* Name and unit of the i-th ceiling this CPU has; null past the end. */
const char* ceiling_name(int i);
const char* ceiling_unit(int i);
/* Units a second, measured for about `seconds`; 0 past the end. */
double ceiling_rate(int i, double seconds);
}

static const Ceiling* at(int i) {
  for (const Ceiling& c : CEILINGS)
    if (c.available() && i-- == 0) return &c;
  return nullptr;
}

const char* ceiling_name(int i) { return at(i) ? at(i)->name : nullptr; }
const char* ceiling_unit(int i) { return at(i) ? at(i)->unit : nullptr; }

double ceiling_rate(int i, double seconds) {
  const Ceiling* c = at(i);
  if (!c) return 0;
  using Clock = std::chrono::steady_clock;
  for (long n = 1;; n *= 2) {
    const auto start = Clock::now();
    c->chain(n);
    const double took = std::chrono::duration<double>(Clock::now() - start).count();
    if (took >= seconds) return double(n) * c->amount / took;
  }
}
