#pragma once
// The tiny checkpoints of tests/reference with something changed in them, for tests of what a
// family refuses and of what it takes. Every function aborts on an I/O error.

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::worker::testing {

using Edit = std::function<void(nlohmann::json& config, std::vector<TinyTensor>& tensors)>;

// Writes tests/reference/checkpoints/NAME, which has one file of weights, to `directory`.
void WriteEdited(const std::string& name, const Edit& edit, const std::string& directory);

// The tensor of this name; aborts if there is none.
TinyTensor& Named(std::vector<TinyTensor>& tensors, const std::string& name);

// What Model::Load says of it: the message of INVALID_ARGUMENT, or else a text that says what came
// instead.
std::string LoadError(const std::string& name, const Edit& edit);

// Edits.
Edit Set(const std::string& key, const nlohmann::json& value);
Edit Drop(const std::string& key);
Edit Change(const std::string& tensor, const std::function<void(TinyTensor&)>& change);
Edit Remove(const std::string& tensor);
Edit AddTensor(const std::string& tensor);

// A row of a table of refusals.
struct Refusal {
  const char* name;        // of the test
  const char* checkpoint;  // of tests/reference
  Edit edit;
  const char* message;  // part of what Load says
};
void PrintTo(const Refusal& refusal, std::ostream* out);

}  // namespace conclave::worker::testing
