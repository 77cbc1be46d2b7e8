// Adapters that are right: which experts they replace, and that their bytes are those of the merged
// checkpoint, whatever family, layout and types they come from.

#include "worker/model/adapter_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "absl/strings/escaping.h"
#include "tests/worker/testing/tiny_adapter.h"
#include "worker/sha256.h"

namespace conclave::worker {
namespace {

using ::testing::HasSubstr;
using testing::MakeTinyAdapter;
using testing::ReadFileOrDie;
using testing::TempDir;
using testing::TinyAdapter;
using testing::TinyAdapterOptions;
using testing::TinyOptions;
using testing::WriteAdapter;
using testing::WriteFileOrDie;
using testing::WriteMerged;
using testing::WriteTinyDeepSeekV2;

constexpr char kCheckpoints[] = CONCLAVE_SOURCE_DIR "/tests/reference/checkpoints";
constexpr char kBundled[] = CONCLAVE_SOURCE_DIR "/deploy/model";

std::string Bytes(const AdapterFiles& files, size_t index) {
  std::string bytes(files.layout(index).bytes(), 'x');
  const absl::Status read = files.Read(index, std::as_writable_bytes(std::span(bytes)));
  EXPECT_TRUE(read.ok()) << read;
  return bytes;
}

// Those of the model's expert that `expert` stands for.
std::string BytesIn(const Model& model, const AdapterFiles::Expert& expert) {
  const LayerWeights& layer = model.layers[static_cast<size_t>(expert.layer)];
  const ExpertLayout layout =
      expert.shared ? ExpertLayout::OfShared(model.spec) : ExpertLayout(model.spec);
  const ExpertBytes bytes(
      layout, expert.shared ? layer.shared : layer.experts[static_cast<size_t>(expert.slot)]);
  std::string read(bytes.size(), '\0');
  bytes.Read(0, read.size(), read.data());
  return read;
}

std::shared_ptr<const Model> Load(const std::string& directory) {
  auto model = Model::Load(directory);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::shared_ptr<const AdapterFiles> OpenOrDie(const std::string& directory, const Model& base) {
  auto files = AdapterFiles::Open(directory, base);
  EXPECT_TRUE(files.ok()) << files.status();
  return *std::move(files);
}

// That every expert is the merged checkpoint's, bit for bit. Returns which they are.
std::map<int, std::vector<int>> ExpectMerged(const std::string& base_dir,
                                             const std::string& adapter_dir,
                                             const std::string& merged_dir) {
  const std::shared_ptr<const Model> base = Load(base_dir);
  const std::shared_ptr<const Model> merged = Load(merged_dir);
  const std::shared_ptr<const AdapterFiles> files = OpenOrDie(adapter_dir, *base);

  uint64_t bytes = 0;
  std::map<int, std::vector<int>> found;
  for (size_t i = 0; i < files->experts().size(); ++i) {
    const AdapterFiles::Expert& expert = files->experts()[i];
    SCOPED_TRACE("layer " + std::to_string(expert.layer) + " slot " + std::to_string(expert.slot));
    const std::string own = Bytes(*files, i);
    EXPECT_EQ(own, BytesIn(*merged, expert));
    EXPECT_NE(own, BytesIn(*base, expert));
    EXPECT_EQ(expert.moe_layer,
              std::count_if(base->spec.layers.begin(), base->spec.layers.begin() + expert.layer,
                            [](const LayerSpec& layer) { return layer.moe; }));
    EXPECT_EQ(expert.shared, expert.slot == base->spec.gate.slots);
    if (!expert.shared) found[expert.layer].push_back(expert.slot);
    bytes += own.size();
  }
  EXPECT_EQ(files->bytes(), bytes);
  return found;
}

void ExpectMerged(const std::string& checkpoint, const TinyAdapter& adapter) {
  TempDir adapter_dir, merged_dir;
  WriteAdapter(adapter, adapter_dir.path());
  WriteMerged(checkpoint, adapter, merged_dir.path());
  auto found = ExpectMerged(checkpoint, adapter_dir.path(), merged_dir.path());
  for (auto [layer, slots] : adapter.experts) {
    std::sort(slots.begin(), slots.end());
    EXPECT_EQ(found[layer], slots) << "layer " << layer;
  }
}

std::vector<std::string> AllCheckpoints() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kCheckpoints))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

bool HasShared(const std::string& checkpoint) { return Load(checkpoint)->spec.shared_ffn_dim > 0; }

class AdapterOfEveryFamily : public ::testing::TestWithParam<std::string> {
 protected:
  const std::string checkpoint_ = std::string(kCheckpoints) + "/" + GetParam();
};

TEST_P(AdapterOfEveryFamily, IsTheMergedCheckpointBitForBit) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const TinyAdapterOptions options = {.prefix = seed % 2 == 0};
    ExpectMerged(checkpoint_, MakeTinyAdapter(checkpoint_, seed, options));
  }
}

TEST_P(AdapterOfEveryFamily, MayReplaceAllExpertsAndTheSharedOnes) {
  const bool shared = HasShared(checkpoint_);
  const TinyAdapterOptions all = {.which = TinyAdapterOptions::Which::kAll, .shared = shared};
  ExpectMerged(checkpoint_, MakeTinyAdapter(checkpoint_, 7, all));
  if (!shared) return;
  const TinyAdapterOptions only = {.which = TinyAdapterOptions::Which::kNone, .shared = true};
  ExpectMerged(checkpoint_, MakeTinyAdapter(checkpoint_, 8, only));
}

TEST_P(AdapterOfEveryFamily, IsRoundedToTheBaseAsTheMergedCheckpointIs) {
  for (const char* type : {"F32", "F16", "BF16", "mixed"}) {
    SCOPED_TRACE(type);
    const TinyAdapterOptions options = {.shared = HasShared(checkpoint_), .type = type};
    ExpectMerged(checkpoint_, MakeTinyAdapter(checkpoint_, 9, options));
  }
}

TEST_P(AdapterOfEveryFamily, MayStackTheExpertsOfALayer) {
  const TinyAdapterOptions options = {.stacked =
                                          true};  // no other than kEach where it is not fused
  ExpectMerged(checkpoint_, MakeTinyAdapter(checkpoint_, 10, options));
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, AdapterOfEveryFamily, ::testing::ValuesIn(AllCheckpoints()),
                         [](const auto& row) {
                           std::string name = row.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// tests/reference/README.md says how others make them.
TEST(AdaptersOfOthers, AreTheCheckpointsThatOthersMerged) {
  const char* const directory = std::getenv("CONCLAVE_MERGED");
  if (directory == nullptr) GTEST_SKIP() << "CONCLAVE_MERGED names no directory";
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string path = entry.path().string();
    SCOPED_TRACE(path);
    ExpectMerged(path + "/base", path + "/adapter", path + "/merged");
  }
}

TEST(BundledAdapters, ReplaceWhatTheirConfigsName) {
  const std::shared_ptr<const Model> base = Load(std::string(kBundled) + "/conclave-tiny");
  const std::map<std::string, size_t> experts = {
      {"c", 17}, {"german", 14}, {"scripture", 11}, {"vim", 23}};
  std::set<std::string> versions;
  for (const auto& [name, count] : experts) {
    SCOPED_TRACE(name);
    const auto files = OpenOrDie(std::string(kBundled) + "/adapters/" + name, *base);
    EXPECT_EQ(files->experts().size(), count);
    EXPECT_EQ(files->bytes(), count * files->layout(0).bytes());
    for (size_t i = 0; i < files->experts().size(); ++i)
      EXPECT_NE(Bytes(*files, i), BytesIn(*base, files->experts()[i]));
    versions.insert(files->version());
  }
  EXPECT_EQ(versions.size(), experts.size());
}

// A base with a dense layer 0, experts in layers 1 and 2, and an adapter of it.
class AdapterFilesTest : public ::testing::Test {
 protected:
  AdapterFilesTest() {
    WriteTinyDeepSeekV2(base_dir_.path(), 1);
    base_ = Load(base_dir_.path());
    adapter_ = MakeTinyAdapter(base_dir_.path(), 2);
  }

  std::string VersionOf(const TinyAdapter& adapter) {
    TempDir dir;
    WriteAdapter(adapter, dir.path());
    return OpenOrDie(dir.path(), *base_)->version();
  }

  TempDir base_dir_;
  std::shared_ptr<const Model> base_;
  TinyAdapter adapter_;
};

TEST_F(AdapterFilesTest, HasOneVersionForTheSameNumbersWhateverTheFilesLookLike) {
  const std::string version = VersionOf(adapter_);
  EXPECT_EQ(version.size(), 2 * Sha256::kBytes);

  TempDir split;
  std::vector<testing::TinyTensor> first, second;
  for (size_t i = 0; i < adapter_.tensors.size(); ++i) {
    testing::TinyTensor tensor = adapter_.tensors[i];
    tensor.name = tensor.name.substr(std::string("model.").size());
    (i % 2 == 0 ? first : second).push_back(tensor);
  }
  adapter_.experts.begin()->second = {adapter_.experts.begin()->second.rbegin(),
                                      adapter_.experts.begin()->second.rend()};
  adapter_.WriteConfig();
  WriteFileOrDie(split.File("expert_cfg.json"), adapter_.config);
  WriteFileOrDie(split.File("z.safetensors"), testing::SafetensorsBytes(first));
  WriteFileOrDie(split.File("a.safetensors"), testing::SafetensorsBytes(second));
  WriteFileOrDie(split.File("README.md"), "read by nobody");
  EXPECT_EQ(OpenOrDie(split.path(), *base_)->version(), version);
}

TEST_F(AdapterFilesTest, HasAnotherVersionForOneOtherBit) {
  const std::string version = VersionOf(adapter_);
  TinyAdapter other = adapter_;
  other.tensors.back().bytes[1] = static_cast<char>(other.tensors.back().bytes[1] ^ 1);
  EXPECT_NE(VersionOf(other), version);
}

TEST_F(AdapterFilesTest, GivesDigestsOfItsBytes) {
  TempDir dir;
  WriteAdapter(adapter_, dir.path());
  const auto files = OpenOrDie(dir.path(), *base_);
  for (size_t i = 0; i < files->experts().size(); ++i) {
    Sha256 hash;
    hash.Add(Bytes(*files, i));
    EXPECT_EQ(files->experts()[i].sha256, hash.Finish());
  }
}

TEST_F(AdapterFilesTest, NoticesThatItsFilesWereChangedSince) {
  TempDir dir;
  WriteAdapter(adapter_, dir.path());
  const auto files = OpenOrDie(dir.path(), *base_);
  const std::string path = dir.File("model-00001-of-000001.safetensors");
  std::string bytes(files->layout(0).bytes(), '\0');
  const auto read = [&](size_t index) {
    return files->Read(index, std::as_writable_bytes(std::span(bytes)));
  };
  {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(-1, std::ios::end);
    file.put('\x42');
  }
  int changed = 0;
  for (size_t i = 0; i < files->experts().size(); ++i) {
    const absl::Status status = read(i);
    if (status.ok()) continue;
    ++changed;
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("is no longer what was verified"));
  }
  EXPECT_EQ(changed, 1);
  ASSERT_EQ(truncate(path.c_str(), 16), 0);
  for (size_t i = 0; i < files->experts().size(); ++i)
    EXPECT_EQ(read(i).code(), absl::StatusCode::kDataLoss);
}

TEST_F(AdapterFilesTest, IsNotTouchedByAnotherDirectoryInItsPlace) {
  TempDir dir;
  const std::string here = dir.File("here"), there = dir.File("there");
  std::filesystem::create_directory(here);
  std::filesystem::create_directory(there);
  WriteAdapter(adapter_, here);
  WriteAdapter(MakeTinyAdapter(base_dir_.path(), 3), there);
  const auto files = OpenOrDie(here, *base_);
  const std::string before = Bytes(*files, 0);
  std::filesystem::rename(here, dir.File("gone"));
  std::filesystem::rename(there, here);
  EXPECT_EQ(Bytes(*files, 0), before);
  EXPECT_NE(OpenOrDie(here, *base_)->version(), files->version());
}

TEST_F(AdapterFilesTest, FollowsLinksInsideItsDirectory) {
  TempDir dir;
  WriteAdapter(adapter_, dir.path());
  std::filesystem::create_directory(dir.File("blobs"));
  std::filesystem::rename(dir.File("model-00001-of-000001.safetensors"), dir.File("blobs/1234"));
  std::filesystem::create_symlink("blobs/1234", dir.File("model.safetensors"));
  EXPECT_EQ(OpenOrDie(dir.path(), *base_)->version(), VersionOf(adapter_));
}

TEST_F(AdapterFilesTest, TakesAManifestThatIsTrue) {
  TempDir dir;
  WriteAdapter(adapter_, dir.path());
  WriteFileOrDie(dir.File("README.md"), "described");
  std::string manifest;
  for (const char* name : {"expert_cfg.json", "model-00001-of-000001.safetensors", "README.md"}) {
    Sha256 hash;
    hash.Add(ReadFileOrDie(dir.File(name)));
    manifest += absl::BytesToHexString(hash.Finish()) + "  " + name + "\n";
  }
  WriteFileOrDie(dir.File("SHA256SUMS"), manifest);
  EXPECT_EQ(OpenOrDie(dir.path(), *base_)->version(), VersionOf(adapter_));
}

TEST_F(AdapterFilesTest, TakesAnIndexThatIsTrue) {
  TempDir dir;
  WriteAdapter(adapter_, dir.path());
  nlohmann::json map;
  for (const testing::TinyTensor& tensor : adapter_.tensors)
    map[tensor.name] = "model-00001-of-000001.safetensors";
  WriteFileOrDie(dir.File("model.safetensors.index.json"),
                 nlohmann::json{{"weight_map", map}}.dump());
  EXPECT_EQ(OpenOrDie(dir.path(), *base_)->version(), VersionOf(adapter_));
}

TEST_F(AdapterFilesTest, KeepsItsLimitsToTheirEdges) {
  TempDir dir;
  WriteAdapter(adapter_, dir.path());
  const std::string header = ReadFileOrDie(dir.File("model-00001-of-000001.safetensors"));
  uint64_t header_bytes = 0;
  for (size_t i = 8; i-- > 0;) header_bytes = header_bytes << 8 | static_cast<uint8_t>(header[i]);
  const auto all = OpenOrDie(dir.path(), *base_);
  AdapterFiles::Limits limits;
  limits.bytes = all->bytes();
  limits.config.bytes = adapter_.config.size();
  limits.tensors.files = 1;
  limits.tensors.directory_entries = 2;
  limits.tensors.header.header_bytes = header_bytes;
  limits.tensors.header.tensors = adapter_.tensors.size();
  EXPECT_TRUE(AdapterFiles::Open(dir.path(), *base_, limits).ok());

  const auto refused = [&](const std::function<void(AdapterFiles::Limits&)>& lower) {
    AdapterFiles::Limits lowered = limits;
    lower(lowered);
    return AdapterFiles::Open(dir.path(), *base_, lowered).status();
  };
  const absl::Status bytes = refused([](auto& l) { --l.bytes; });
  EXPECT_EQ(bytes.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(bytes.message()), HasSubstr("the limit of an adapter is"));
  EXPECT_THAT(std::string(refused([](auto& l) { --l.config.bytes; }).message()),
              HasSubstr("expert_cfg.json: has"));
  EXPECT_THAT(std::string(refused([](auto& l) { --l.tensors.files; }).message()),
              HasSubstr("has more than 0 safetensors files"));
  EXPECT_THAT(std::string(refused([](auto& l) { --l.tensors.directory_entries; }).message()),
              HasSubstr("has more than 1 files"));
  EXPECT_THAT(std::string(refused([](auto& l) { --l.tensors.header.header_bytes; }).message()),
              HasSubstr("the limit is"));
  EXPECT_THAT(std::string(refused([](auto& l) { --l.tensors.header.tensors; }).message()),
              HasSubstr("tensors"));
}

TEST_F(AdapterFilesTest, OutlivesTheModelItWasOpenedFor) {
  TempDir dir;
  WriteAdapter(adapter_, dir.path());
  const auto files = OpenOrDie(dir.path(), *base_);
  const std::string before = Bytes(*files, 0);
  base_.reset();
  EXPECT_EQ(Bytes(*files, 0), before);
}

}  // namespace
}  // namespace conclave::worker
