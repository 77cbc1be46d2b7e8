#pragma once
// Pages under weights. Any thread.

#include "worker/device/tensor.h"

namespace conclave::worker {

// Gives back the memory of the pages that are this weight's alone: those of a mapped file are read
// again when they are touched, others are then zero.
void GiveBackPages(const Weight& weight);

}  // namespace conclave::worker
