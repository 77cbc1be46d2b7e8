// Bytes a second that N threads read from memory, huge pages where there are any: what no step that
// reads its weights once can beat. The best of several passes over a GiB. For speed.py.

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr size_t kBytes = size_t{1} << 30;
constexpr int kPasses = 12;

// Sixteen sums, so that loads wait for none of them.
uint64_t Read(const uint64_t* from, const uint64_t* to) {
  uint64_t sums[16] = {};
  for (; from + 16 <= to; from += 16) {
    for (int i = 0; i < 16; ++i) sums[i] += from[i];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  const size_t threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  madvise(memory, kBytes, MADV_HUGEPAGE);
  std::memset(memory, 1, kBytes);
  const auto* words = static_cast<const uint64_t*>(memory);
  const size_t share = kBytes / sizeof(uint64_t) / threads;
  double best = 0;
  uint64_t sum = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    std::vector<uint64_t> sums(threads);
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> running;
    for (size_t i = 0; i < threads; ++i) {
      running.emplace_back([&, i] { sums[i] = Read(words + i * share, words + (i + 1) * share); });
    }
    for (std::thread& thread : running) thread.join();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(kBytes) / took.count());
    for (const uint64_t part : sums) sum += part;
  }
  std::printf("%.0f\n", best);
  return sum == 0;
}
