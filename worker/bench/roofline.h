#pragma once
// What this machine's memory and cores permit, measured: the roof that kernels are held against.

namespace conclave::worker {

// Bytes a second of a plain read of two gibibytes on huge pages, by so many threads.
double StreamingRead(int threads);

// Operations a second of the instruction that a dispatch level multiplies BF16 by BF16 with, all
// operands in registers; 0 where it has none.
double Bf16Peak(const char* level, int threads);

// Of the widest fused multiply-add of fp32 a level has; 0 for "portable".
double Fp32Peak(const char* level, int threads);

}  // namespace conclave::worker
