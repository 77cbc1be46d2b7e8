#pragma once
// A tensor's numbers in fp32, for the few small ones that are copied at load. Any thread.

#include <vector>

#include "worker/device/tensor.h"

namespace conclave::worker {

// Row by row; exact for every type.
std::vector<float> Widen(const Weight& weight);

}  // namespace conclave::worker
