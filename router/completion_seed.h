#pragma once
// The seeds of the completions of one request. Any thread.

#include <cstdint>

namespace conclave::router {

// Of completion `index` of a request with `seed`. The first has the request's own, so that it is
// what the request gives without others; all are different (splitmix64's sequence from the seed,
// whose finaliser maps no two numbers to one). Asked alone with its seed, a completion is the same.
inline uint64_t CompletionSeed(uint64_t seed, uint32_t index) {
  if (index == 0) return seed;
  uint64_t x = seed + index * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace conclave::router
