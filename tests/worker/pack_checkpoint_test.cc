// Checkpoints with packed experts, as they are written and as they are read.

#include "worker/model/pack_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <string>

#include "tests/worker/testing/packed_checkpoint.h"
#include "tests/worker/testing/without_experts.h"
#include "worker/device/packed.h"
#include "worker/experts/expert_store.h"
#include "worker/model/directory.h"
#include "worker/model/manifest.h"
#include "worker/model/model.h"
#include "worker/model/widen.h"
#include "worker/sha256.h"

namespace conclave::worker {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::Edit;
using ::testing::HasSubstr;
using testing::PackableCheckpoint;
using testing::ReadFileOrDie;
using testing::TinyTensor;

constexpr Weight FfnWeights::*kMembers[] = {&FfnWeights::gate,    &FfnWeights::up,
                                            &FfnWeights::down,    &FfnWeights::gate_bias,
                                            &FfnWeights::up_bias, &FfnWeights::down_bias};

const PackableCheckpoint& Named(const std::string& name) {
  const auto& all = testing::PackableCheckpoints();
  return *std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.name == name; });
}

// A checkpoint and, once packed, what it was packed to.
struct Packed {
  testing::TempDir dir;
  std::string from = dir.File("from"), to = dir.File("to");

  Packed() { fs::create_directory(from); }
  explicit Packed(const std::string& name, const Edit& edit = nullptr) : Packed() {
    Named(name).write(from, edit);
  }
  absl::Status Pack(DType form = DType::kMxInt8) const {
    return PackCheckpoint(from, to, {.experts_as = form});
  }
  std::set<std::string> all() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(dir.path()))
      names.insert(entry.path().filename().string());
    return names;
  }
};

std::shared_ptr<const Model> Load(const std::string& directory, const ModelOptions& options = {}) {
  auto model = Model::Load(directory, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

void ExpectSameBits(const FfnWeights& a, const FfnWeights& b) {
  for (const auto member : kMembers) {
    const Weight &ours = a.*member, &theirs = b.*member;
    ASSERT_EQ(static_cast<bool>(ours), static_cast<bool>(theirs));
    if (!ours) continue;
    ASSERT_EQ(ours.type, theirs.type);
    ASSERT_EQ(ours.bytes(), theirs.bytes());
    EXPECT_EQ(std::memcmp(ours.data, theirs.data, ours.bytes()), 0);
    if (!IsPacked(ours.type)) continue;
    EXPECT_EQ(std::memcmp(ours.scales, theirs.scales, ours.scale_bytes()), 0);
  }
}

void ExpectSameExperts(const Model& a, const Model& b) {
  ASSERT_EQ(a.layers.size(), b.layers.size());
  for (size_t l = 0; l < a.layers.size(); ++l) {
    ASSERT_EQ(a.layers[l].experts.size(), b.layers[l].experts.size());
    ExpectSameBits(a.layers[l].shared, b.layers[l].shared);
    for (size_t slot = 0; slot < a.layers[l].experts.size(); ++slot)
      ExpectSameBits(a.layers[l].experts[slot], b.layers[l].experts[slot]);
  }
}

struct Case {
  const char* checkpoint;
  DType form;
};
std::vector<Case> AllCases() {
  std::vector<Case> cases;
  for (const PackableCheckpoint& checkpoint : testing::PackableCheckpoints()) {
    if (std::string(checkpoint.name).ends_with("fp8")) continue;
    for (const DType form : {DType::kMxInt8, DType::kMxFp4})
      cases.push_back({checkpoint.name, form});
  }
  return cases;
}

class PackedCheckpoints : public ::testing::TestWithParam<Case> {};

TEST_P(PackedCheckpoints, AreReadAsWhatALoadWouldPack) {
  const auto [name, form] = GetParam();
  const Packed packed(name);
  const absl::Status written = packed.Pack(form);
  ASSERT_TRUE(written.ok()) << written;
  const auto read = Load(packed.to), made = Load(packed.from, {.experts_as = form});
  EXPECT_EQ(read->spec.expert_type, form);
  ExpectSameExperts(*read, *made);
  // The same form may be asked for, too.
  EXPECT_TRUE(Model::Load(packed.to, {.experts_as = form}).ok());
  // Rows of gpt-oss take turns, gate and up; all else is used where it is mapped.
  EXPECT_EQ(read->converted_bytes() > 0, std::string(name) == "gpt_oss");
}

TEST_P(PackedCheckpoints, HaveEverythingElseAsItWas) {
  const auto [name, form] = GetParam();
  const Packed packed(name);
  ASSERT_TRUE(packed.Pack(form).ok());
  const std::vector<TinyTensor> before =
      testing::TensorsOf(ReadFileOrDie(packed.from + "/model.safetensors"));
  std::vector<TinyTensor> after =
      testing::TensorsOf(ReadFileOrDie(packed.to + "/model.safetensors"));
  for (const TinyTensor& tensor : before) {
    if (testing::CanBePacked(tensor.name)) {
      const TinyTensor& blocks = testing::Named(after, tensor.name + "_blocks");
      const TinyTensor& scales = testing::Named(after, tensor.name + "_scales");
      EXPECT_EQ(blocks.bytes.size(), tensor.bytes.size() / 16 * static_cast<size_t>(BitsOf(form)));
      EXPECT_EQ(scales.bytes.size(), tensor.bytes.size() / 64);
      continue;
    }
    const TinyTensor& copy = testing::Named(after, tensor.name);
    EXPECT_EQ(copy.type, tensor.type);
    EXPECT_EQ(copy.shape, tensor.shape);
    EXPECT_EQ(copy.bytes, tensor.bytes);
  }
  Json config = Json::parse(ReadFileOrDie(packed.to + "/config.json"));
  EXPECT_EQ(config["quantization_config"],
            (Json{{"quant_method", NameOfPacked(form)}, {"group_size", 32}}));
  config.erase("quantization_config");
  EXPECT_EQ(config, Json::parse(ReadFileOrDie(packed.from + "/config.json")));
  for (const char* file : {"tokenizer.json", "generation_config.json"}) {
    if (!fs::exists(packed.from + "/" + file)) continue;
    EXPECT_EQ(ReadFileOrDie(packed.to + "/" + file), ReadFileOrDie(packed.from + "/" + file));
  }
}

TEST_P(PackedCheckpoints, GiveExpertsToAWorkerWithoutThem) {
  const auto [name, form] = GetParam();
  const Packed packed(name);
  ASSERT_TRUE(packed.Pack(form).ok());
  const auto whole = Load(packed.to);
  std::vector<TinyTensor> tensors =
      testing::TensorsOf(ReadFileOrDie(packed.to + "/model.safetensors"));
  Json none;
  testing::WithoutExperts()(none, tensors);
  testing::WriteFileOrDie(packed.to + "/model.safetensors", testing::SafetensorsBytes(tensors));
  const auto lacking =
      Load(packed.to, {.ask_layers = [&](const std::string&) { return whole->checkpoint.layers; }});
  EXPECT_EQ(lacking->digest, whole->digest);
  EXPECT_EQ(lacking->spec.expert_type, form);
  EXPECT_NE(lacking->absent, nullptr);
}

INSTANTIATE_TEST_SUITE_P(All, PackedCheckpoints, ::testing::ValuesIn(AllCases()),
                         [](const auto& one) {
                           return std::string(one.param.checkpoint) + "_" +
                                  NameOfPacked(one.param.form);
                         });

TEST(PackCheckpointTest, KeepsFilesAndTellsWhatIsInThem) {
  Packed packed;
  testing::WriteTinyOlmoe(packed.from, 1,
                          {.type = DType::kBF16, .dim = 64, .expert_ffn_dim = 32, .shards = 3});
  testing::WriteFileOrDie(packed.from + "/empty.txt", "");
  std::string sums;
  for (const auto& entry : fs::directory_iterator(packed.from)) {
    Sha256 hash;
    hash.Add(ReadFileOrDie(entry.path().string()));
    const std::string digest = hash.Finish();
    for (const char byte : digest) {
      char hex[3];
      std::snprintf(hex, sizeof(hex), "%02x", static_cast<unsigned char>(byte));
      sums += hex;
    }
    sums += "  " + entry.path().filename().string() + "\n";
  }
  testing::WriteFileOrDie(packed.from + "/SHA256SUMS", sums);
  uint64_t shown = 0, of = 0;
  const absl::Status written = PackCheckpoint(
      packed.from, packed.to,
      {.experts_as = DType::kMxFp4, .threads = 2, .progress = [&](uint64_t done, uint64_t total) {
         EXPECT_GE(done, shown);
         shown = done;
         of = total;
       }});
  ASSERT_TRUE(written.ok()) << written;
  EXPECT_EQ(shown, of);
  std::set<std::string> before, after;
  for (const auto& entry : fs::directory_iterator(packed.from))
    before.insert(entry.path().filename().string());
  for (const auto& entry : fs::directory_iterator(packed.to))
    after.insert(entry.path().filename().string());
  EXPECT_EQ(after, before);
  const Json index = Json::parse(ReadFileOrDie(packed.to + "/model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], of);
  EXPECT_EQ(Load(packed.to)->spec.expert_type, DType::kMxFp4);
  const auto directory = Directory::Open(packed.to);
  const absl::Status sound = CheckManifest(**directory, {}, 1 << 20);
  EXPECT_TRUE(sound.ok()) << sound;
  const Manifest manifest = *ParseManifest(ReadFileOrDie(packed.to + "/SHA256SUMS"), "sums");
  EXPECT_EQ(manifest.size(), before.size() - 1);
}

TEST(PackCheckpointTest, WritesNothingWhereSomethingIs) {
  const Packed packed("olmoe");
  fs::create_directory(packed.to);
  EXPECT_EQ(packed.Pack().code(), absl::StatusCode::kAlreadyExists);
  fs::remove(packed.to);
  fs::create_symlink("nowhere", packed.to);
  EXPECT_EQ(packed.Pack().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(packed.all(), (std::set<std::string>{"from", "to"}));
}

TEST(PackCheckpointTest, LeavesNothingOfWhatItCannotFinish) {
  const std::string name = "model.layers.2.mlp.experts.7.down_proj.weight";
  const Packed packed("olmoe", testing::Change(name, [](TinyTensor& tensor) {
                        tensor.bytes.replace(2 * 40, 2, testing::Encode(DType::kBF16, {NAN}));
                      }));
  const absl::Status refused = packed.Pack();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("tensor \"" + name + "\" has a value that is not finite, number 40"));
  EXPECT_EQ(packed.all(), std::set<std::string>{"from"});
  EXPECT_EQ(PackCheckpoint(packed.from, packed.dir.File("none/to"), {}).code(),
            absl::StatusCode::kUnavailable);
}

TEST(PackCheckpointTest, PacksNothingTwiceAndNoFp8) {
  const Packed packed("olmoe"), fp8("deepseek_v2_fp8");
  ASSERT_TRUE(packed.Pack().ok());
  const absl::Status again = PackCheckpoint(packed.to, packed.dir.File("again"), {});
  EXPECT_EQ(again.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(again.message()), HasSubstr("quantization_config is there"));
  EXPECT_EQ(fp8.Pack().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(PackedCheckpointTest, IsHeldInNoOtherForm) {
  const Packed packed("olmoe");
  ASSERT_TRUE(packed.Pack(DType::kMxFp4).ok());
  const absl::Status refused = Model::Load(packed.to, {.experts_as = DType::kMxInt8}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("has experts packed as mxfp4, which cannot be held as mxint8"));
}

// Of a packed checkpoint with something changed.
absl::Status LoadChanged(const std::string& name, const Edit& change, DType form = DType::kMxFp4) {
  const Packed packed(name);
  EXPECT_TRUE(packed.Pack(form).ok());
  Json config = Json::parse(ReadFileOrDie(packed.to + "/config.json"));
  std::vector<TinyTensor> tensors =
      testing::TensorsOf(ReadFileOrDie(packed.to + "/model.safetensors"));
  change(config, tensors);
  testing::WriteFileOrDie(packed.to + "/config.json", config.dump());
  testing::WriteFileOrDie(packed.to + "/model.safetensors", testing::SafetensorsBytes(tensors));
  return Model::Load(packed.to).status();
}

TEST(PackedCheckpointTest, IsRefusedByNameWhereItIsWrong) {
  const std::string name = "model.layers.1.mlp.experts.5.up_proj.weight";
  const auto refused = [&](const Edit& change) {
    const absl::Status status = LoadChanged("olmoe", change);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refused(testing::Remove(name + "_scales")),
              HasSubstr("tensor \"" + name + "_scales\" is missing"));
  EXPECT_THAT(refused(testing::Remove(name + "_blocks")),
              HasSubstr("tensor \"" + name + "_blocks\" is missing"));
  EXPECT_THAT(refused(testing::Change(name + "_blocks", [](TinyTensor& t) { t.type = "I8"; })),
              HasSubstr("_blocks\" is I8, expected U8"));
  EXPECT_THAT(refused(testing::Change(name + "_scales", [](TinyTensor& t) { t.type = "I8"; })),
              HasSubstr("_scales\" is I8, expected U8"));
  EXPECT_THAT(refused(testing::Change(name + "_blocks",
                                      [](TinyTensor& t) {
                                        t.shape = {32, 48};
                                      })),
              HasSubstr("_blocks\" has shape [32, 48], expected [2, 3, 16, 16]"));
  EXPECT_THAT(refused(testing::AddTensor(name)), HasSubstr(name + "\" is not part of this family"));
  EXPECT_THAT(
      refused([](Json& config, auto&) { config["quantization_config"]["group_size"] = 64; }),
      HasSubstr("group_size is 64, expected 32 to 32"));
}

TEST(PackedCheckpointTest, HasScalesThatKernelsTake) {
  const std::string name = "model.layers.1.mlp.experts.5.up_proj.weight_scales";
  for (const auto& [scale, power] :
       {std::pair(1, "2^-126"), std::pair(231, "2^104"), std::pair(255, "2^128")}) {
    const absl::Status refused =
        LoadChanged("olmoe", testing::Change(name, [scale = scale](TinyTensor& tensor) {
                      tensor.bytes[7] = static_cast<char>(scale);
                    }));
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.message()),
                HasSubstr("tensor \"" + name + "\" has " + power +
                          " as number 7, taken are 2^-125 to 2^103"));
  }
  for (const int scale : {2, 230}) {
    EXPECT_TRUE(LoadChanged("olmoe", testing::Change(name,
                                                     [=](TinyTensor& tensor) {
                                                       tensor.bytes[7] = static_cast<char>(scale);
                                                     }))
                    .ok());
  }
}

// As gpt-oss is published: whatever a scale is of zeros, it counts for nothing.
TEST(PackedCheckpointTest, MayHaveAnyScaleOfZerosWhereRowsAreTaken) {
  const std::string name = "model.layers.1.mlp.experts.gate_up_proj";
  const auto change = [&](bool zeros) {
    return [=](Json& config, std::vector<TinyTensor>& tensors) {
      config["quantization_config"]["modules_to_not_convert"] = {"lm_head"};
      testing::Named(tensors, name + "_scales").bytes[5] = '\0';
      std::string& blocks = testing::Named(tensors, name + "_blocks").bytes;
      if (zeros) blocks.replace(5 * 16, 16, std::string(16, '\x80'));
    };
  };
  const absl::Status taken = LoadChanged("gpt_oss", change(true));
  EXPECT_TRUE(taken.ok()) << taken;
  const absl::Status refused = LoadChanged("gpt_oss", change(false));
  EXPECT_THAT(std::string(refused.message()), HasSubstr(name + "_scales\" has 2^-127 as number 5"));
}

}  // namespace
}  // namespace conclave::worker
