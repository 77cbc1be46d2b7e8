#pragma once
// Checkpoints for tests of packed experts: of sizes that can be packed, in every way in which
// checkpoints hold experts; and what is left of their numbers when they are packed. Every function
// aborts on an I/O error.

#include <functional>
#include <string>
#include <vector>

#include "tests/worker/testing/edited_checkpoint.h"
#include "worker/device/tensor.h"

namespace conclave::worker::testing {

struct PackableCheckpoint {
  const char* name;
  // To an existing directory, edited.
  std::function<void(const std::string& directory, const Edit& edit)> write;
};
// A tensor for each matrix, two for all of a layer, transposed, FP8; with and without shared
// experts and biases; random numbers.
const std::vector<PackableCheckpoint>& PackableCheckpoints();
void PrintTo(const PackableCheckpoint& checkpoint, std::ostream* out);

// Is a matrix of an expert, or of a layer's shared one.
bool CanBePacked(const std::string& tensor);
// Is one of those, or any other that every token is multiplied with.
bool CanAllBePacked(const std::string& tensor);
// Such matrices are BF16 and have the numbers that are left when they are packed.
Edit Unpacked(DType form, bool (*packed)(const std::string&) = CanBePacked);

}  // namespace conclave::worker::testing
