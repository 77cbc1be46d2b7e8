#include "tests/worker/testing/edited_checkpoint.h"

#include <algorithm>
#include <ostream>

#include "scheduler/check.h"
#include "worker/model/model.h"

namespace conclave::worker::testing {

using Json = nlohmann::json;

void WriteEdited(const std::string& name, const Edit& edit, const std::string& directory) {
  const std::string from = CONCLAVE_SOURCE_DIR "/tests/reference/checkpoints/" + name;
  Json config = Json::parse(ReadFileOrDie(from + "/config.json"));
  std::vector<TinyTensor> tensors = TensorsOf(ReadFileOrDie(from + "/model.safetensors"));
  if (edit) edit(config, tensors);
  WriteFileOrDie(directory + "/config.json", config.dump(2));
  WriteFileOrDie(directory + "/model.safetensors", SafetensorsBytes(tensors));
}

TinyTensor& Named(std::vector<TinyTensor>& tensors, const std::string& name) {
  const auto tensor =
      std::find_if(tensors.begin(), tensors.end(), [&](const auto& t) { return t.name == name; });
  CONCLAVE_CHECK(tensor != tensors.end());
  return *tensor;
}

std::string LoadError(const std::string& name, const Edit& edit) {
  TempDir dir;
  WriteEdited(name, edit, dir.path());
  const absl::Status status = Model::Load(dir.path()).status();
  if (status.code() == absl::StatusCode::kInvalidArgument) return std::string(status.message());
  return "not INVALID_ARGUMENT: " + status.ToString();
}

Edit Set(const std::string& key, const Json& value) {
  return [=](Json& config, auto&) { config[key] = value; };
}
Edit Drop(const std::string& key) {
  return [=](Json& config, auto&) { config.erase(key); };
}
Edit Change(const std::string& tensor, const std::function<void(TinyTensor&)>& change) {
  return [=](Json&, std::vector<TinyTensor>& tensors) { change(Named(tensors, tensor)); };
}
Edit Remove(const std::string& tensor) {
  return [=](Json&, std::vector<TinyTensor>& tensors) {
    CONCLAVE_CHECK(std::erase_if(tensors, [&](const TinyTensor& t) { return t.name == tensor; }) ==
                   1);
  };
}
Edit AddTensor(const std::string& tensor) {
  return [=](Json&, std::vector<TinyTensor>& tensors) {
    tensors.push_back({tensor, "F32", {1}, std::string(4, '\0')});
  };
}

void PrintTo(const Refusal& refusal, std::ostream* out) { *out << refusal.name; }

}  // namespace conclave::worker::testing
