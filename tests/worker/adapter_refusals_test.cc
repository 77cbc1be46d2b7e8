// Adapters whose tensors or files are wrong, each by its name: refused before anything is visible,
// by a message that says what is wrong where, with nothing left behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>

#include "absl/strings/escaping.h"
#include "tests/worker/testing/bad_adapter.h"
#include "worker/sha256.h"

namespace conclave::worker {
namespace {

namespace fs = std::filesystem;

using testing::BadAdapter;
using testing::Change;
using testing::Layers;
using testing::ReadFileOrDie;
using testing::Replace;
using testing::SafetensorsBytes;
using testing::Subject;
using testing::TinyTensor;
using testing::WriteFileOrDie;

constexpr const char* kWeights = testing::kAdapterWeights;
constexpr char kIndex[] = "model.safetensors.index.json";
const auto Named = testing::NameOfMatrix;

Change Edit(const std::string& name, const std::function<void(TinyTensor&)>& edit) {
  return [=](Subject& subject) { edit(subject.Tensor(name)); };
}
Change Remove(const std::string& part) {
  return [=](Subject& subject) {
    std::erase_if(subject.adapter.tensors,
                  [&](const TinyTensor& tensor) { return tensor.name.find(part) != part.npos; });
  };
}
Change Add(const std::string& name, const std::vector<int64_t>& shape = {12, 32}) {
  return [=](Subject& subject) {
    size_t bytes = 4;
    for (const int64_t dimension : shape) bytes *= static_cast<size_t>(dimension);
    subject.adapter.tensors.push_back({name, "F32", shape, std::string(bytes, '\0')});
  };
}
Change Put(size_t index, float value) {
  return Edit(Named(1, 5, "up"), [=](TinyTensor& tensor) {
    std::memcpy(&tensor.bytes[4 * index], &value, sizeof(value));
  });
}
Change Shape(const std::string& name, const std::vector<int64_t>& shape) {
  return Edit(name, [=](TinyTensor& tensor) { tensor.shape = shape; });
}
// The bytes of the weights' file.
Change Weights(const std::function<void(std::string&)>& edit) {
  return [=](Subject& subject) {
    std::string bytes = ReadFileOrDie(subject.File(kWeights));
    edit(bytes);
    WriteFileOrDie(subject.File(kWeights), bytes);
  };
}
Change Write(const std::string& name, const std::string& text) {
  return [=](Subject& subject) { WriteFileOrDie(subject.File(name), text); };
}
// An index that is true but for `edit`.
Change Index(const std::function<void(nlohmann::json&)>& edit) {
  return [=](Subject& subject) {
    nlohmann::json map;
    for (const TinyTensor& tensor : subject.adapter.tensors) map[tensor.name] = kWeights;
    edit(map);
    WriteFileOrDie(subject.File(kIndex), nlohmann::json{{"weight_map", map}}.dump());
  };
}
void MakeDirectory(const std::string& path) { fs::create_directory(path); }
void MakePipe(const std::string& path) { ASSERT_EQ(mkfifo(path.c_str(), 0600), 0); }
std::function<void(const std::string&)> MakeLink(const std::string& to) {
  return [=](const std::string& path) { fs::create_symlink(to, path); };
}
// A manifest of both files that is true but for `edit`.
Change Manifest(const std::function<void(std::string&)>& edit) {
  return [=](Subject& subject) {
    std::string text;
    for (const char* name : {"expert_cfg.json", kWeights}) {
      Sha256 hash;
      hash.Add(ReadFileOrDie(subject.File(name)));
      text += absl::BytesToHexString(hash.Finish()) + "  " + name + "\n";
    }
    edit(text);
    WriteFileOrDie(subject.File("SHA256SUMS"), text);
  };
}

std::vector<BadAdapter> BadTensors() {
  const Change none;
  const std::string gate = Named(1, 5, "gate"), up = Named(1, 5, "up"), down = Named(1, 5, "down");
  return {
      {"NoTensors", none, Replace(kWeights, [](const std::string&) {}), "has no safetensors file"},
      {"AMissingMatrix", Remove("2.mlp.experts.0.up"), none,
       "expert_cfg.json: /experts/2/0 needs tensor "
       "\"model.layers.2.mlp.experts.0.up_proj.weight\""},
      {"AMissingExpert", Remove("1.mlp.experts.3."), none,
       "/experts/1/1 needs tensor \"model.layers.1.mlp.experts.3.gate_proj.weight\""},
      {"AMissingLayer", Remove("layers.2."), none, "/experts/2/0 needs tensor"},
      {"AnExpertMore", Layers("\"1\": [5], \"2\": [0]"), none,
       "tensor \"model.layers.1.mlp.experts.3.gate_proj.weight\" is of no expert that"},
      {"AnExpertThatTheModelLacks", Add("model.layers.1.mlp.experts.9.up_proj.weight"), none,
       "tensor \"model.layers.1.mlp.experts.9.up_proj.weight\" is of no expert"},
      {"AGate", Add("model.layers.1.mlp.gate.weight", {8, 32}), none,
       "tensor \"model.layers.1.mlp.gate.weight\" is of no expert"},
      {"AnAttentionMatrix", Add("model.layers.1.self_attn.q_proj.weight"), none,
       "tensor \"model.layers.1.self_attn.q_proj.weight\" is of no expert"},
      {"AnEmbedding", Add("model.embed_tokens.weight"), none,
       "tensor \"model.embed_tokens.weight\" is of no expert"},
      {"AHead", Add("lm_head.weight"), none, "tensor \"lm_head.weight\" is of no expert"},
      {"ASharedExpertThatIsNotNamed", Add("model.layers.1.mlp.shared_experts.up_proj.weight"), none,
       "shared_experts.up_proj.weight\" is of no expert"},
      {"ABias", Add("model.layers.1.mlp.experts.5.up_proj.bias", {12}), none,
       "up_proj.bias\" is of no expert"},
      {"ALoraMatrix", Add("model.layers.1.mlp.experts.5.up_proj.lora_A.weight"), none,
       "lora_A.weight\" is of no expert"},
      {"SwappedMatrices",
       [=](Subject& subject) { std::swap(subject.Tensor(gate).name, subject.Tensor(down).name); },
       none, "has shape [32, 12], expected [12, 32]"},
      {"ATransposedMatrix", Shape(down, {12, 32}), none,
       "down_proj.weight\" has shape [12, 32], expected [32, 12]"},
      {"ASmallerMatrix",
       Edit(up,
            [](TinyTensor& t) {
              t.shape = {11, 32};
              t.bytes.resize(4 * 11 * 32);
            }),
       none, "has shape [11, 32], expected [12, 32]"},
      {"ARankTooMany", Shape(up, {1, 12, 32}), none, "has shape [1, 12, 32], expected [12, 32]"},
      {"ARankTooFew", Shape(up, {12 * 32}), none, "has shape [384], expected [12, 32]"},
      {"ASingleNumber",
       Edit(up,
            [](TinyTensor& t) {
              t.shape = {};
              t.bytes.resize(4);
            }),
       none, "has shape [], expected [12, 32]"},
      {"AnEmptyMatrix",
       Edit(up,
            [](TinyTensor& t) {
              t.shape = {0, 32};
              t.bytes.clear();
            }),
       none, "has shape [0, 32], expected [12, 32]"},
      {"ARankOfThousands", Edit(up, [](TinyTensor& t) { t.shape = std::vector<int64_t>(4000, 1); }),
       none, "up_proj.weight\": has more than 8 dimensions"},
      {"IntegersForNumbers", Edit(up, [](TinyTensor& t) { t.type = "I32"; }), none,
       "up_proj.weight\" is I32, supported: F32, F16, BF16"},
      {"EightBitNumbers",
       Edit(up,
            [](TinyTensor& t) {
              t.type = "F8_E4M3";
              t.bytes.resize(12 * 32);
            }),
       none, "is F8_E4M3, supported"},
      {"NotANumber", Put(7, std::nanf("")), none,
       "up_proj.weight\" has a value that is not finite, number 7"},
      {"AnInfinity", Put(383, -std::numeric_limits<float>::infinity()), none,
       "up_proj.weight\" has a value that is not finite, number 383"},
      {"NamesWithAndWithoutModel", Edit(up, [](TinyTensor& t) { t.name = t.name.substr(6); }), none,
       "tensor \"layers.1.mlp.experts.5.up_proj.weight\" is named without \"model.\""},
      {"NamesOfAnotherProgram", Edit(up, [](TinyTensor& t) { t.name = "module." + t.name; }), none,
       "tensor \"module.model.layers.1.mlp.experts.5.up_proj.weight\" is of no expert"},
      {"ATensorInTwoFiles", none,
       [=](Subject& subject) {
         WriteFileOrDie(subject.File("more.safetensors"), SafetensorsBytes({subject.Tensor(up)}));
       },
       "more.safetensors: tensor \"model.layers.1.mlp.experts.5.up_proj.weight\" is in"},
  };
}

std::vector<BadAdapter> BadFiles() {
  const Change none;
  return {
      {"AnEmptyFile", none, Weights([](std::string& b) { b.clear(); }),
       "has 0 bytes, a safetensors file has at least 8"},
      {"AFileCutInItsLength", none, Weights([](std::string& b) { b.resize(5); }), "has 5 bytes"},
      {"AFileCutInItsHeader", none, Weights([](std::string& b) { b.resize(100); }), "truncated"},
      {"AFileCutInItsData", none, Weights([](std::string& b) { b.resize(b.size() - 1); }),
       "the file has"},
      {"AFileCutInHalf", none, Weights([](std::string& b) { b.resize(b.size() / 2); }),
       "the file has"},
      {"AFileWithMoreBehindIt", none, Weights([](std::string& b) { b += "more"; }),
       "4 bytes of data belong to no tensor"},
      {"AFileOfSomethingElse", none, Weights([](std::string& b) { b = "PK" + b; }), "header of"},
      {"AHeaderThatIsNoJson", none, Weights([](std::string& b) { b[9] = '}'; }),
       "header is not JSON"},
      {"HalfOfItsFiles", none, Index([](nlohmann::json& map) {
         map[Named(2, 1, "up")] = "model-00002-of-000002.safetensors";
       }),
       "is not in model-00002-of-000002.safetensors, nor in any file here"},
      {"AnIndexThatNamesAnotherFile", none,
       Index([](nlohmann::json& map) { map[Named(1, 5, "up")] = "other.safetensors"; }),
       "is not in other.safetensors, but in model-00001-of-000001.safetensors"},
      {"AnIndexThatLacksATensor", none,
       Index([](nlohmann::json& map) { map.erase(Named(1, 5, "up")); }),
       "model.safetensors.index.json: does not name tensor"},
      {"AnIndexThatLeadsElsewhere", none,
       Index([](nlohmann::json& map) { map[Named(1, 5, "up")] = "../x.safetensors"; }),
       "is no file of the directory"},
      {"AnIndexThatIsNoJson", none, Write(kIndex, "weights"), "index.json: not JSON"},
      {"AConfigElsewhere", none, Replace("expert_cfg.json", MakeLink("/etc/passwd")),
       "expert_cfg.json: is a link that leads out of the directory"},
      {"TensorsElsewhere", none, Replace(kWeights, MakeLink("../weights.safetensors")),
       "safetensors: is a link that leads out of the directory"},
      {"ALinkToADevice", none, Replace(kWeights, MakeLink("/dev/zero")),
       "safetensors: is a link that leads out of the directory"},
      {"ALinkToNothing", none, Replace(kWeights, MakeLink("gone")),
       "safetensors: is a link that cannot be followed"},
      {"ALinkToItself", none, Replace(kWeights, MakeLink(kWeights)),
       "safetensors: is a link that cannot be followed"},
      {"ADirectoryForAConfig", none, Replace("expert_cfg.json", MakeDirectory),
       "expert_cfg.json: is not a regular file"},
      {"ADirectoryForTensors", none, Replace(kWeights, MakeDirectory), "is not a regular file"},
      {"APipeForAConfig", none, Replace("expert_cfg.json", MakePipe),
       "expert_cfg.json: is not a regular file"},
      {"APipeForTensors", none, Replace(kWeights, MakePipe), "is not a regular file"},
      {"APipeForAnIndex", none, Replace(kIndex, MakePipe),
       "model.safetensors.index.json: is not a regular file"},
      {"APipeForAManifest", none, Replace("SHA256SUMS", MakePipe),
       "SHA256SUMS: is not a regular file"},
      {"AManifestOfOtherBytes", none,
       Manifest([](std::string& m) { m[0] = m[0] == '0' ? '1' : '0'; }),
       "expert_cfg.json: has SHA-256"},
      {"AManifestOfOtherWeights", none, Manifest([](std::string& m) {
         char& digit = m[m.find('\n') + 1];
         digit = digit == '0' ? '1' : '0';
       }),
       "safetensors: has SHA-256"},
      {"AManifestThatLacksAFile", none,
       Manifest([](std::string& m) { m.resize(m.find('\n') + 1); }),
       "SHA256SUMS: does not name model-00001-of-000001.safetensors"},
      {"AManifestOfAFileThatIsNotThere", none,
       Manifest([](std::string& m) { m += std::string(64, '0') + "  gone\n"; }),
       "gone: No such file"},
      {"AManifestOfAFileElsewhere", none,
       Manifest([](std::string& m) { m += std::string(64, '0') + "  ../base\n"; }),
       "does not name a file beside it"},
      {"AManifestThatNamesAFileTwice", none, Manifest([](std::string& m) { m += m; }),
       "names a file that comes twice"},
      {"AManifestThatIsNone", none, Write("SHA256SUMS", "all is well\n"),
       "SHA256SUMS: line 1, \"all is well\", is not"},
      {"AnEmptyManifest", none, Write("SHA256SUMS", ""), "SHA256SUMS: names no file"},
  };
}

class BadAdapterFiles : public testing::BadAdapterTest {};

TEST_P(BadAdapterFiles, AreRefusedByWhatIsWrongInThem) { ExpectRefused(GetParam()); }

const auto kName = [](const auto& row) { return std::string(row.param.name); };
INSTANTIATE_TEST_SUITE_P(Tensors, BadAdapterFiles, ::testing::ValuesIn(BadTensors()), kName);
INSTANTIATE_TEST_SUITE_P(Files, BadAdapterFiles, ::testing::ValuesIn(BadFiles()), kName);

TEST_F(BadAdapterFiles, AreThoseOfNumbersTooLargeForTheBase) {
  MakeBase({.type = DType::kF16});
  const std::string up = Named(1, 5, "up");
  ExpectRefused({"TooLarge",
                 Edit(up,
                      [](TinyTensor& tensor) {
                        std::vector<float> values(12 * 32);
                        values[9] = -65520.0f;
                        tensor.type = "F32";
                        tensor.bytes = testing::Encode(DType::kF32, values);
                      }),
                 nullptr, "has -65520 as number 9, too large for the F16 of the base"});
}

TEST_F(BadAdapterFiles, AreStacksWhoseOrderIsNotClear) {
  const auto stacked = [](const std::string& layers) {
    return [=](Subject& subject) {
      Layers(layers)(subject);
      subject.adapter.tensors = {
          {"model.layers.1.mlp.experts.gate_up_proj", "F32", {2, 24, 32}, std::string(6144, '\1')},
          {"model.layers.1.mlp.experts.down_proj", "F32", {2, 32, 12}, std::string(3072, '\1')}};
    };
  };
  ExpectRefused({"Descending", stacked("\"1\": [5, 3]"), nullptr,
                 "/experts/1: tensor \"model.layers.1.mlp.experts.gate_up_proj\" stacks these"});
  ExpectRefused({"OfMore", stacked("\"1\": [3, 5, 6]"), nullptr,
                 "gate_up_proj\" has shape [2, 24, 32], expected [3, 24, 32]"});
}

}  // namespace
}  // namespace conclave::worker
