#pragma once
// Adapters that are wrong: a good one of a tiny model, what spoils it, and what must come of it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "scheduler/check.h"
#include "tests/worker/testing/tiny_adapter.h"
#include "worker/model/adapter_files.h"

namespace conclave::worker::testing {

inline constexpr char kAdapterWeights[] = "model-00001-of-000001.safetensors";

// An adapter before and after it is written.
struct Subject {
  TinyAdapter adapter;
  std::string directory;

  TinyTensor& Tensor(const std::string& name) {
    const auto found = std::find_if(adapter.tensors.begin(), adapter.tensors.end(),
                                    [&](const TinyTensor& tensor) { return tensor.name == name; });
    CONCLAVE_CHECK(found != adapter.tensors.end());
    return *found;
  }
  std::string File(const std::string& name) const { return directory + "/" + name; }
};
using Change = std::function<void(Subject&)>;

struct BadAdapter {
  const char* name;
  Change before;        // it is written; or none
  Change after;         // likewise
  const char* message;  // part of what is said
};
inline void PrintTo(const BadAdapter& bad, std::ostream* out) { *out << bad.name; }

inline Change ConfigOf(const std::string& text) {
  return [=](Subject& subject) { subject.adapter.config = text; };
}
// With this in place of layers.
inline Change Layers(const std::string& layers) {
  return ConfigOf("{\"experts\": {" + layers +
                  "}, \"shared_experts\": false, \"non_expert_modules\": false}");
}
// Something else in place of a file.
inline Change Replace(const std::string& name,
                      const std::function<void(const std::string&)>& make) {
  return [=](Subject& subject) {
    std::filesystem::remove(subject.File(name));
    make(subject.File(name));
  };
}
inline std::string NameOfMatrix(int layer, int slot, const std::string& matrix) {
  return "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(slot) + "." +
         matrix + "_proj.weight";
}

// What a process holds that it could leak: descriptors, and mappings of files.
struct Holdings {
  size_t descriptors = 0;
  size_t mappings = 0;
  bool operator==(const Holdings&) const = default;

  static Holdings Now() {
    Holdings now;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
      ++now.descriptors;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) now.mappings += line.find(" /") != line.npos;
    return now;
  }
};

// A model of a dense layer, 0, and two with 8 experts each, 1 and 2; its adapters replace experts 5
// and 3 of layer 1 and expert 0 of layer 2.
class BadAdapterTest : public ::testing::TestWithParam<BadAdapter> {
 protected:
  BadAdapterTest() { MakeBase({}); }

  void MakeBase(const TinyOptions& options) {
    base_dir_ = std::make_unique<TempDir>();
    WriteTinyDeepSeekV2(base_dir_->path(), 1, options);
    auto model = Model::Load(base_dir_->path());
    CONCLAVE_CHECK(model.ok());
    base_ = *std::move(model);
  }

  TinyAdapter Good() {
    const TinyAdapter all =
        MakeTinyAdapter(base_dir_->path(), 1, {.which = TinyAdapterOptions::Which::kAll});
    TinyAdapter good;
    good.experts = {{1, {5, 3}}, {2, {0}}};
    for (const auto& [layer, slot] : {std::pair(1, 5), {1, 3}, {2, 0}}) {
      for (const char* matrix : {"gate", "up", "down"}) {
        const std::string name = NameOfMatrix(layer, slot, matrix);
        std::copy_if(all.tensors.begin(), all.tensors.end(), std::back_inserter(good.tensors),
                     [&](const TinyTensor& tensor) { return tensor.name == name; });
      }
    }
    good.WriteConfig();
    return good;
  }

  // It is, by a message that says so, and nothing is left behind.
  void ExpectRefused(const BadAdapter& bad) {
    TempDir dir;
    Subject subject = {Good(), dir.File("adapter")};
    std::filesystem::create_directory(subject.directory);
    // Where links lead that lead out.
    WriteFileOrDie(dir.File("weights.safetensors"), SafetensorsBytes(subject.adapter.tensors));
    WriteAdapter(subject.adapter, subject.directory);
    const absl::Status good = AdapterFiles::Open(subject.directory, *base_).status();
    ASSERT_TRUE(good.ok()) << good;

    if (bad.before) {
      bad.before(subject);
      WriteAdapter(subject.adapter, subject.directory);
    }
    if (bad.after) bad.after(subject);
    const Holdings before = Holdings::Now();
    const absl::Status status = AdapterFiles::Open(subject.directory, *base_).status();
    EXPECT_EQ(Holdings::Now(), before);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(bad.message));
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(subject.directory));
    EXPECT_TRUE(status.code() == absl::StatusCode::kInvalidArgument ||
                status.code() == absl::StatusCode::kNotFound)
        << status;
  }

  std::unique_ptr<TempDir> base_dir_;
  std::shared_ptr<const Model> base_;
};

}  // namespace conclave::worker::testing
