#include "worker/bench/roofline.h"

#include <immintrin.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include "scheduler/check.h"

namespace conclave::worker {
namespace {

using Clock = std::chrono::steady_clock;

// Binds a thread of the process to the nth CPU it may run on: a reading is too short for the system
// to spread threads by itself.
void BindTo(int nth) {
  cpu_set_t allowed, one;
  CPU_ZERO(&one);
  if (sched_getaffinity(getpid(), sizeof allowed, &allowed) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || nth-- > 0) continue;
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

// Seconds from the moment that `threads` threads are ready to run body(thread) until all have.
template <typename Body>
double Together(int threads, Body body) {
  std::atomic<int> waiting{threads};
  std::vector<std::thread> others;
  std::vector<double> seconds(static_cast<size_t>(threads));
  for (int i = 0; i < threads; ++i) {
    others.emplace_back([&, i] {
      BindTo(i);
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      const Clock::time_point begin = Clock::now();
      body(i);
      seconds[static_cast<size_t>(i)] = std::chrono::duration<double>(Clock::now() - begin).count();
    });
  }
  for (std::thread& other : others) other.join();
  return *std::max_element(seconds.begin(), seconds.end());
}

constexpr size_t kArena = size_t{2} << 30;  // beyond any cache
constexpr size_t kHugePage = size_t{2} << 20;

// Made once: its pages cost more than to read them.
const char* Arena() {
  static const char* const arena = [] {
    void* mapped = mmap(nullptr, kArena + kHugePage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CONCLAVE_CHECK(mapped != MAP_FAILED);
    const auto at = (reinterpret_cast<uintptr_t>(mapped) + kHugePage - 1) & ~(kHugePage - 1);
    madvise(reinterpret_cast<void*>(at), kArena, MADV_HUGEPAGE);
    std::memset(reinterpret_cast<void*>(at), 1, kArena);
    return reinterpret_cast<const char*>(at);
  }();
  return arena;
}

__attribute__((target("avx2"))) void Read(const char* from, size_t bytes) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  const auto* at = reinterpret_cast<const __m256i*>(from);
  for (size_t i = 0; i < bytes; i += 4 * sizeof(__m256i), at += 4) {
    a = _mm256_or_si256(a, _mm256_load_si256(at));
    b = _mm256_or_si256(b, _mm256_load_si256(at + 1));
    c = _mm256_or_si256(c, _mm256_load_si256(at + 2));
    d = _mm256_or_si256(d, _mm256_load_si256(at + 3));
  }
  const __m256i all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
  asm volatile("" ::"x"(all));
}

constexpr int kSums = 16;  // enough for the latency of every instruction here
constexpr int64_t kRounds = 1 << 20;

__attribute__((target("avx512f,avx512bf16"))) void MultiplyBf16() {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  __m512i x = _mm512_set1_epi32(0x3f803f80);
  for (int64_t i = 0; i < kRounds; ++i) {
    asm volatile("" : "+v"(x));
#pragma GCC unroll 16
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)x);
  }
  for (const __m512& sum : sums) asm volatile("" ::"v"(sum));
}

__attribute__((target("avx512f"))) void MultiplyFp32Avx512() {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  __m512 x = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < kRounds; ++i) {
    asm volatile("" : "+v"(x));
#pragma GCC unroll 16
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(x, x, sum);
  }
  for (const __m512& sum : sums) asm volatile("" ::"v"(sum));
}

__attribute__((target("avx2,fma"))) void MultiplyFp32Avx2() {
  __m256 sums[12];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  __m256 x = _mm256_set1_ps(1.0f);
  for (int64_t i = 0; i < kRounds; ++i) {
    asm volatile("" : "+x"(x));
#pragma GCC unroll 12
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(x, x, sum);
  }
  for (const __m256& sum : sums) asm volatile("" ::"x"(sum));
}

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

__attribute__((target("amx-tile,amx-bf16"))) void MultiplyTiles() {
  const TileConfig config;
  asm volatile("ldtilecfg %0" ::"m"(config));
  for (int64_t i = 0; i < kRounds / 4; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

double Peak(void (*loop)(), int threads, double operations) {
  return threads * operations / Together(threads, [=](int) { loop(); });
}

}  // namespace

double StreamingRead(int threads) {
  const char* arena = Arena();
  const size_t share = kArena / static_cast<size_t>(threads) / kHugePage * kHugePage;
  const double seconds =
      Together(threads, [=](int i) { Read(arena + static_cast<size_t>(i) * share, share); });
  return static_cast<double>(share) * threads / seconds;
}

double Bf16Peak(const char* level, int threads) {
  if (std::strcmp(level, "amxbf16") == 0) {
    return Peak(MultiplyTiles, threads, double{kRounds} * 2 * 16 * 16 * 32);
  }
  if (std::strcmp(level, "avx512bf16") == 0) {
    return Peak(MultiplyBf16, threads, double{kRounds} * kSums * 64);
  }
  return 0;
}

double Fp32Peak(const char* level, int threads) {
  if (std::strcmp(level, "portable") == 0) return 0;
  if (std::strcmp(level, "avx2") == 0) {
    return Peak(MultiplyFp32Avx2, threads, double{kRounds} * 12 * 16);
  }
  return Peak(MultiplyFp32Avx512, threads, double{kRounds} * kSums * 32);
}

}  // namespace conclave::worker
