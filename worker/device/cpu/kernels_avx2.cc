#include "worker/device/cpu/simd_avx2.h"
// The vectors come first: the kernels are written over them.
#include "worker/device/cpu/kernels-inl.h"

namespace conclave::worker::cpu {

const Kernels kKernelsAvx2 = Table(nullptr, nullptr);

}  // namespace conclave::worker::cpu
