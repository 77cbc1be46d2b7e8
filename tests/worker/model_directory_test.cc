// Directories that are no checkpoint, or no longer one: a good one with one thing wrong in it. Each
// is refused as a whole, with a status and a message that name file and thing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/model/model.h"

namespace conclave::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ReadFileOrDie;
using testing::TempDir;
using testing::WriteFileOrDie;

constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kFirst[] = "model-00001-of-00002.safetensors";
constexpr char kSecond[] = "model-00002-of-00002.safetensors";

void WriteGood(const TempDir& dir) { testing::WriteTinyOlmoe(dir.path(), 7, {.shards = 2}); }

TEST(CheckpointDirectory, IsReadAsItIs) {
  const TempDir dir;
  WriteGood(dir);
  ASSERT_TRUE(fs::exists(dir.File(kFirst)) && fs::exists(dir.File(kSecond)));
  EXPECT_TRUE(Model::Load(dir.path()).ok()) << Model::Load(dir.path()).status();
}

// As the Hugging Face hub's client keeps what it downloads: names that point to blobs elsewhere.
TEST(CheckpointDirectory, IsReadThroughLinksToFilesElsewhere) {
  const TempDir blobs, snapshot;
  WriteGood(blobs);
  for (const auto& entry : fs::directory_iterator(blobs.path())) {
    fs::create_symlink(entry.path(), snapshot.File(entry.path().filename()));
  }
  EXPECT_TRUE(Model::Load(snapshot.path()).ok()) << Model::Load(snapshot.path()).status();
}

struct Broken {
  const char* name;
  std::function<void(const TempDir& dir)> breaks;
  const char* message;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};
void PrintTo(const Broken& broken, std::ostream* out) { *out << broken.name; }

class CheckpointDirectoryRefuses : public ::testing::TestWithParam<Broken> {};

TEST_P(CheckpointDirectoryRefuses, ByName) {
  const TempDir dir;
  WriteGood(dir);
  GetParam().breaks(dir);
  const auto model = Model::Load(dir.path());
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.status().code(), GetParam().code) << model.status();
  const std::string message(model.status().message());
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_LT(message.size(), 1200u);
}

// `file` says `text` instead.
auto Says(const char* file, std::string text) {
  return [=](const TempDir& dir) { WriteFileOrDie(dir.File(file), text); };
}

// `file` has `change` made to its bytes.
auto Changed(const char* file, std::function<void(std::string& bytes)> change) {
  return [=](const TempDir& dir) {
    std::string bytes = ReadFileOrDie(dir.File(file));
    change(bytes);
    WriteFileOrDie(dir.File(file), bytes);
  };
}

auto Edited(const char* file, std::function<void(nlohmann::json& document)> change) {
  return Changed(file, [=](std::string& bytes) {
    nlohmann::json document = nlohmann::json::parse(bytes);
    change(document);
    bytes = document.dump();
  });
}

auto Gone(const char* file) {
  return [=](const TempDir& dir) { fs::remove(dir.File(file)); };
}

auto ADirectory(const char* file) {
  return [=](const TempDir& dir) {
    fs::remove(dir.File(file));
    fs::create_directory(dir.File(file));
  };
}

auto APipe(const char* file) {
  return [=](const TempDir& dir) {
    fs::remove(dir.File(file));
    ASSERT_EQ(mkfifo(dir.File(file).c_str(), 0600), 0);
  };
}

auto ALink(const char* file, const char* target) {
  return [=](const TempDir& dir) {
    fs::remove(dir.File(file));
    fs::create_symlink(target, dir.File(file));
  };
}

std::string Deep(const char* open, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += open;
  return text;
}

// The index says that the first tensor it has is in `file`.
auto Elsewhere(const std::string& file) {
  return Edited(kIndex, [=](nlohmann::json& index) { index["weight_map"].begin().value() = file; });
}

const auto kName = [](const auto& one) { return one.param.name; };

INSTANTIATE_TEST_SUITE_P(
    Config, CheckpointDirectoryRefuses,
    ::testing::Values(
        Broken{"Missing", Gone("config.json"), "config.json: No such file",
               absl::StatusCode::kNotFound},
        Broken{"Empty", Says("config.json", ""), "config.json: not JSON at byte 1"},
        Broken{"Cut", Changed("config.json", [](std::string& s) { s.resize(s.size() / 2); }),
               "config.json: not JSON at byte"},
        Broken{"Array", Says("config.json", "[]"), "config.json: is array, expected an object"},
        Broken{"Null", Says("config.json", "null"), "config.json: is null, expected an object"},
        Broken{"ZeroByte", Says("config.json", std::string("{}\0", 3)), "a zero byte"},
        Broken{"NotUtf8", Says("config.json", "{\"model_type\": \"\xc3\x28\"}"), "not JSON"},
        Broken{"ByteOrderMarkOfUtf16", Says("config.json", "\xff\xfe{}"), "not JSON at byte 1"},
        Broken{"KeyTwice", Says("config.json", R"({"model_type": "olmoe", "model_type": "x"})"),
               "key \"model_type\" appears twice"},
        Broken{"Deep", Says("config.json", Deep("{\"a\":", 100000)), "nested deeper than 32"},
        Broken{"Large", Says("config.json", std::string(2 << 20, ' ')), "config.json: has 2097152"},
        Broken{"NaN", Says("config.json", R"({"rms_norm_eps": NaN})"), "not JSON at byte"},
        Broken{"NumberBeyondADouble", Says("config.json", R"({"rms_norm_eps": 1e400})"),
               "not JSON at byte"},
        Broken{"NoFamily", Says("config.json", "{}"), "config.json: model_type is missing"},
        Broken{"UnknownFamily", Edited("config.json", [](auto& c) { c["model_type"] = "gpt9"; }),
               "\"gpt9\""},
        Broken{"FamilyIsNumber", Edited("config.json", [](auto& c) { c["model_type"] = 7; }),
               "model_type is number, expected a string"},
        Broken{"Directory", ADirectory("config.json"), "config.json: is not a regular file"},
        Broken{"Pipe", APipe("config.json"), "config.json: is not a regular file"},
        Broken{"Device", ALink("config.json", "/dev/zero"), "config.json: is not a regular file"},
        Broken{"LinkToNothing", ALink("config.json", "nowhere"), "config.json: No such file",
               absl::StatusCode::kNotFound},
        Broken{"LinkToItself", ALink("config.json", "config.json"), "config.json: Too many levels"},
        Broken{"NegativeSize", Edited("config.json", [](auto& c) { c["hidden_size"] = -32; }),
               "hidden_size is -32"},
        Broken{"HugeSize",
               Edited("config.json", [](auto& c) { c["hidden_size"] = int64_t{1} << 62; }),
               "hidden_size is 4611686018427387904"},
        Broken{"HugeExperts", Edited("config.json", [](auto& c) { c["num_experts"] = 2000000000; }),
               "num_experts is 2000000000"},
        Broken{"HugeLayers",
               Edited("config.json", [](auto& c) { c["num_hidden_layers"] = 1000000000; }),
               "num_hidden_layers is 1000000000"},
        Broken{
            "HugeContext",
            Edited("config.json", [](auto& c) { c["max_position_embeddings"] = int64_t{1} << 40; }),
            "max_position_embeddings is 1099511627776"}),
    kName);

INSTANTIATE_TEST_SUITE_P(
    GenerationConfig, CheckpointDirectoryRefuses,
    ::testing::Values(
        Broken{"Empty", Says("generation_config.json", ""), "generation_config.json: not JSON"},
        Broken{"Array", Says("generation_config.json", "[]"), "expected an object"},
        Broken{"Cut", Says("generation_config.json", "{\"eos_token_id\":"),
               "generation_config.json: not JSON at byte"},
        Broken{"KeyTwice", Says("generation_config.json", R"({"top_p": 1, "top_p": 0.5})"),
               "key \"top_p\" appears twice"},
        Broken{"Large", Says("generation_config.json", std::string(2 << 20, ' ')),
               "generation_config.json: has 2097152 bytes"},
        Broken{"Directory", ADirectory("generation_config.json"),
               "generation_config.json: is not a regular file"},
        Broken{"NegativeTemperature",
               Says("generation_config.json", R"({"do_sample": true, "temperature": -0.5})"),
               "generation_config.json: temperature is -0.5"},
        Broken{"TopPAboveOne",
               Says("generation_config.json", R"({"do_sample": true, "top_p": 1.01})"),
               "generation_config.json: top_p is 1.01"},
        Broken{"TopKIsText",
               Says("generation_config.json", R"({"do_sample": true, "top_k": "50"})"),
               "generation_config.json: top_k is string"},
        Broken{"EndTokenIsText", Says("generation_config.json", R"({"eos_token_id": [1, "x"]})"),
               "generation_config.json: eos_token_id is string"},
        Broken{"EndTokenIsObject", Says("generation_config.json", R"({"eos_token_id": {}})"),
               "eos_token_id is object"}),
    kName);

INSTANTIATE_TEST_SUITE_P(
    Index, CheckpointDirectoryRefuses,
    ::testing::Values(
        Broken{"Empty", Says(kIndex, ""), "index.json: not JSON at byte 1"},
        Broken{"Array", Says(kIndex, "[]"), "index.json: weight_map is missing or no object"},
        Broken{"NoMap", Says(kIndex, R"({"metadata": {}})"), "weight_map is missing or no object"},
        Broken{"MapIsList", Says(kIndex, R"({"weight_map": []})"), "weight_map is missing or no"},
        Broken{"MapIsEmpty", Says(kIndex, R"({"weight_map": {}})"), "has 0 safetensors files"},
        Broken{"KeyTwice", Says(kIndex, R"({"weight_map": {"x": "a", "x": "b"}})"),
               "key \"x\" appears twice"},
        Broken{"Parent", Elsewhere("../" + std::string(kFirst)), "is no file of the directory"},
        Broken{"Absolute", Elsewhere("/etc/passwd"), "\"/etc/passwd\" is no file of the directory"},
        Broken{"Below", Elsewhere("sub/a.safetensors"), "is no file of the directory"},
        Broken{"Dot", Elsewhere("."), "is no file of the directory"},
        Broken{"Hidden", Elsewhere(".hidden.safetensors"), "is no file of the directory"},
        Broken{"Nothing", Elsewhere(""), "is no file of the directory"},
        Broken{"ZeroByte", Elsewhere(std::string("a\0b", 3)), "is no file of the directory"},
        Broken{"NoSuchShard", Elsewhere("model-00009.safetensors"),
               "model-00009.safetensors: No such file", absl::StatusCode::kNotFound},
        Broken{"NoSafetensors", Elsewhere("config.json"), "config.json: header of"},
        Broken{"Number", Edited(kIndex, [](auto& i) { i["weight_map"].begin().value() = 1; }),
               "is no file name"},
        Broken{"TensorThatIsNowhere",
               Edited(kIndex, [](auto& i) { i["weight_map"]["more"] = kFirst; }),
               "tensor \"more\" is not in model-00001"},
        Broken{"WrongShard",
               Edited(kIndex,
                      [](auto& i) {
                        auto& file = i["weight_map"].begin().value();
                        file = file == kFirst ? kSecond : kFirst;
                      }),
               "is not in model-0000"},
        Broken{"Directory", ADirectory(kIndex), "index.json: is not a regular file"},
        Broken{"Pipe", APipe(kIndex), "index.json: is not a regular file"}),
    kName);

INSTANTIATE_TEST_SUITE_P(
    Shard, CheckpointDirectoryRefuses,
    ::testing::Values(
        Broken{"Missing", Gone(kSecond), "of-00002.safetensors: No such file",
               absl::StatusCode::kNotFound},
        Broken{"Empty", Says(kSecond, ""), "of-00002.safetensors: is empty"},
        Broken{"Text", Says(kSecond, "version https://git-lfs.github.com/spec/v1\n"),
               "of-00002.safetensors: header of"},
        Broken{"CutInTheHeader", Changed(kSecond, [](std::string& s) { s.resize(100); }),
               "truncated"},
        Broken{"CutInTheData", Changed(kSecond, [](std::string& s) { s.pop_back(); }),
               "data ends at byte"},
        Broken{"ByteMore", Changed(kSecond, [](std::string& s) { s += '\0'; }),
               "1 bytes of data belong to no tensor"},
        Broken{"HeaderOfNothing", Changed(kSecond, [](std::string& s) { s[8] = ' '; }),
               "does not begin with '{'"},
        Broken{"HeaderLonger", Changed(kSecond, [](std::string& s) { ++s[0]; }),
               "of-00002.safetensors"},
        Broken{"HeaderEndless", Changed(kSecond, [](std::string& s) { s[7] = '\x7f'; }),
               "the limit is 100000000"},
        Broken{"SameAsTheFirst",
               [](const TempDir& dir) {
                 fs::copy_file(dir.File(kFirst), dir.File(kSecond),
                               fs::copy_options::overwrite_existing);
               },
               "is in both"},
        Broken{"Directory", ADirectory(kSecond), "of-00002.safetensors: is not a regular file"},
        Broken{"Pipe", APipe(kSecond), "of-00002.safetensors: is not a regular file"},
        Broken{"Device", ALink(kSecond, "/dev/zero"), "is not a regular file"},
        Broken{"LinkToNothing", ALink(kSecond, "../nowhere"), "No such file",
               absl::StatusCode::kNotFound},
        Broken{"LinkToItself", ALink(kSecond, kSecond), "Too many levels"},
        Broken{"LinkToWhatIsNone", ALink(kSecond, "/etc/passwd"), "of-00002.safetensors: header"}),
    kName);

TEST(CheckpointDirectory, ThatIsNoneIsNamed) {
  const TempDir dir;
  for (const std::string& path : {dir.File("nothing"), std::string("/dev/null"), std::string()}) {
    const auto model = Model::Load(path);
    EXPECT_FALSE(model.ok());
    EXPECT_THAT(std::string(model.status().message()), HasSubstr(path + "/config.json"));
  }
}

}  // namespace
}  // namespace conclave::worker
