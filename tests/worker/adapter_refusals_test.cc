// Adapters that are wrong, each by its name: refused before anything is visible, by a message that
// says what is wrong where, with nothing left behind.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <ostream>

#include "absl/strings/escaping.h"
#include "tests/worker/testing/tiny_adapter.h"
#include "worker/model/adapter_files.h"
#include "worker/sha256.h"

namespace conclave::worker {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;
using testing::ReadFileOrDie;
using testing::SafetensorsBytes;
using testing::TempDir;
using testing::TinyAdapter;
using testing::TinyTensor;
using testing::WriteFileOrDie;

constexpr char kWeights[] = "model-00001-of-000001.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

// What a process holds that it could leak: descriptors, and mappings of files.
struct Holdings {
  size_t descriptors = 0;
  size_t mappings = 0;
  bool operator==(const Holdings&) const = default;
};

Holdings Held() {
  Holdings held;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd"))
    ++held.descriptors;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) held.mappings += line.find(" /") != line.npos;
  return held;
}

// The good adapter of a model of a dense layer, 0, and two with 8 experts each, 1 and 2: experts 5
// and 3 of layer 1, expert 0 of layer 2.
struct Subject {
  TinyAdapter adapter;
  std::string directory;

  TinyTensor& Tensor(const std::string& name) const {
    for (const TinyTensor& tensor : adapter.tensors) {
      if (tensor.name == name) return const_cast<TinyTensor&>(tensor);
    }
    ADD_FAILURE() << "no tensor " << name;
    return const_cast<TinyTensor&>(adapter.tensors.front());
  }
  std::string File(const std::string& name) const { return directory + "/" + name; }
};

// Before the files are written, and after.
using Change = std::function<void(Subject&)>;

struct BadAdapter {
  const char* name;
  Change before;
  Change after;
  const char* message;  // part of what is said
};
void PrintTo(const BadAdapter& bad, std::ostream* out) { *out << bad.name; }

Change Config(const std::string& text) {
  return [=](Subject& subject) { subject.adapter.config = text; };
}
// The config with this in place of layers.
Change Layers(const std::string& layers) {
  return Config("{\"experts\": {" + layers +
                "}, \"shared_experts\": false, \"non_expert_modules\": false}");
}

std::string Named(int layer, int slot, const std::string& matrix) {
  return "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(slot) + "." +
         matrix + "_proj.weight";
}

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
// What stands in place of a file.
Change Replace(const std::string& name, const std::function<void(const std::string&)>& make) {
  return [=](Subject& subject) {
    fs::remove(subject.File(name));
    make(subject.File(name));
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

std::string ManySlots() {
  std::string slots = "0";
  for (int i = 1; i < 1000000; ++i) slots += "," + std::to_string(i);
  return slots;
}

std::vector<BadAdapter> BadConfigs() {
  const Change none;
  return {
      {"NoConfig", none, Replace("expert_cfg.json", [](const std::string&) {}),
       "expert_cfg.json: No such file"},
      {"AnEmptyConfig", Config(""), none, "expert_cfg.json: is not JSON in UTF-8 at byte 1"},
      {"AConfigThatIsCut", Config("{\"experts\": {\"1\": [5, 3"), none, "is not JSON"},
      {"AConfigWithAZeroByte", Config(std::string("{\"experts\": {}}\0", 16)), none,
       "at byte 15: a zero byte"},
      {"AConfigWithMoreBehindIt", Config("{\"experts\": {\"1\": [5]}} {}"), none, "is not JSON"},
      {"AListForAConfig", Config("[1]"), none, "the document is an array, expected an object"},
      {"ANumberThatIsNone", Config("{\"experts\": {\"1\": [NaN]}}"), none, "is not JSON"},
      {"NoExperts", Config("{\"shared_experts\": true}"), none, "/experts is missing"},
      {"AListForExperts", Config("{\"experts\": [[5, 3]]}"), none,
       "/experts is an array, expected an object"},
      {"AnUnknownKey", Config("{\"experts\": {}, \"delta\": true}"), none, "unknown key \"delta\""},
      {"AKeyTwice", Config("{\"experts\": {}, \"experts\": {}}"), none,
       "key \"experts\" appears twice"},
      {"ALayerTwice", Layers("\"1\": [5, 3], \"2\": [0], \"1\": []"), none,
       "/experts/1 appears twice"},
      {"ALayerWithALeadingZero", Layers("\"01\": [5, 3]"), none, "/experts/01: no layer"},
      {"ALayerBelowZero", Layers("\"-1\": [5, 3]"), none, "/experts/-1: no layer"},
      {"ALayerThatIsAWord", Layers("\"last\": [5, 3]"), none, "/experts/last: no layer"},
      {"ALayerBeyondThirtyTwoBits", Layers("\"4294967297\": [5]"), none,
       "/experts/4294967297: no layer"},
      {"ALayerThatTheModelLacks", Layers("\"1\": [5, 3], \"2\": [0], \"3\": [1]"), none,
       "/experts/3: "},
      {"AnEmptyLayerThatTheModelLacks", Layers("\"1\": [5, 3], \"2\": [0], \"3\": []"), none,
       "has layers 0 to 2"},
      {"ALayerWithoutExperts", Layers("\"0\": [1], \"1\": [5, 3], \"2\": [0]"), none,
       "/experts/0: layer 0 of"},
      {"ASlotForALayer", Layers("\"1\": 5"), none, "/experts/1 is a number, expected an array"},
      {"ASlotThatTheModelLacks", Layers("\"1\": [5, 8], \"2\": [0]"), none,
       "/experts/1/1 is 8, layer 1 of"},
      {"ASlotBelowZero", Layers("\"1\": [5, -3]"), none, "/experts/1/1 is -3, no slot"},
      {"ASlotThatIsNoInteger", Layers("\"1\": [5.0]"), none, "/experts/1/0 is 5.0, no slot"},
      {"ASlotInQuotes", Layers("\"1\": [\"5\"]"), none,
       "/experts/1/0 is a string, expected a slot"},
      {"ASlotThatIsAList", Layers("\"1\": [[5]]"), none, "/experts/1/0 is an array"},
      {"ASlotThatIsTrue", Layers("\"1\": [true]"), none, "/experts/1/0 is a truth value"},
      {"ASlotTwice", Layers("\"1\": [5, 3, 5]"), none, "/experts/1/2: 5 is listed twice"},
      {"AHugeSlot", Layers("\"1\": [99999999999999999999999]"), none, "/experts/1/0 is"},
      {"ASlotOfSixtyFourBits", Layers("\"1\": [18446744073709551615]"), none,
       "/experts/1/0 is 18446744073709551615"},
      {"AMillionSlots", Layers("\"1\": [" + ManySlots() + "]"), none, "the limit is 1048576"},
      {"AFlagThatIsAWord", Config("{\"experts\": {}, \"shared_experts\": \"no\"}"), none,
       "/shared_experts is a string, expected true or false"},
      {"ChangedAttention", Config("{\"experts\": {\"1\": [5, 3]}, \"non_expert_modules\": true}"),
       none, "/non_expert_modules is true: such an adapter changes attention and gates"},
      {"SharedExpertsThatAreNotThere",
       Config("{\"experts\": {\"1\": [5, 3], \"2\": [0]}, \"shared_experts\": true}"), none,
       "/shared_experts needs tensor \"model.layers.1.mlp.shared_experts.gate_proj.weight\""},
      {"NothingReplaced", Layers("\"1\": [], \"2\": []"), none, "there is nothing to replace"},
      {"ADeepConfig", Config(std::string(100000, '[')), none, "the document is an array"},
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

class Refusal : public ::testing::TestWithParam<BadAdapter> {
 protected:
  static void SetUpTestSuite() {
    base_dir_ = new TempDir();
    testing::WriteTinyDeepSeekV2(base_dir_->path(), 1);
    auto model = Model::Load(base_dir_->path());
    ASSERT_TRUE(model.ok()) << model.status();
    base_ = new std::shared_ptr<const Model>(*model);
  }
  static void TearDownTestSuite() {
    delete base_;
    delete base_dir_;
  }

  // Experts 5 and 3 of layer 1, and 0 of layer 2.
  static TinyAdapter Good() {
    TinyAdapter all = testing::MakeTinyAdapter(base_dir_->path(), 1,
                                               {.which = testing::TinyAdapterOptions::Which::kAll});
    TinyAdapter good;
    good.experts = {{1, {5, 3}}, {2, {0}}};
    for (const auto& [layer, slots] : good.experts) {
      for (const int slot : slots) {
        for (const char* matrix : {"gate", "up", "down"}) {
          for (const TinyTensor& tensor : all.tensors) {
            if (tensor.name == Named(layer, slot, matrix)) good.tensors.push_back(tensor);
          }
        }
      }
    }
    good.WriteConfig();
    return good;
  }

  static TempDir* base_dir_;
  static std::shared_ptr<const Model>* base_;
};
TempDir* Refusal::base_dir_ = nullptr;
std::shared_ptr<const Model>* Refusal::base_ = nullptr;

TEST_P(Refusal, NamesWhatIsWrongAndLeavesNothing) {
  TempDir dir;
  Subject subject = {Good(), dir.File("adapter")};
  fs::create_directory(subject.directory);
  // Where links lead that lead out.
  WriteFileOrDie(dir.File("weights.safetensors"), SafetensorsBytes(subject.adapter.tensors));
  testing::WriteAdapter(subject.adapter, subject.directory);
  ASSERT_TRUE(AdapterFiles::Open(subject.directory, **base_).ok());

  if (GetParam().before) {
    GetParam().before(subject);
    testing::WriteAdapter(subject.adapter, subject.directory);
  }
  if (GetParam().after) GetParam().after(subject);
  const Holdings before = Held();
  const absl::Status status = AdapterFiles::Open(subject.directory, **base_).status();
  EXPECT_EQ(Held(), before);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
  EXPECT_THAT(std::string(status.message()), HasSubstr(subject.directory));
  EXPECT_TRUE(status.code() == absl::StatusCode::kInvalidArgument ||
              status.code() == absl::StatusCode::kNotFound)
      << status;
}

const auto kName = [](const auto& row) { return std::string(row.param.name); };
INSTANTIATE_TEST_SUITE_P(Config, Refusal, ::testing::ValuesIn(BadConfigs()), kName);
INSTANTIATE_TEST_SUITE_P(Tensors, Refusal, ::testing::ValuesIn(BadTensors()), kName);
INSTANTIATE_TEST_SUITE_P(Files, Refusal, ::testing::ValuesIn(BadFiles()), kName);

}  // namespace
}  // namespace conclave::worker
