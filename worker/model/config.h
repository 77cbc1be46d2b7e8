#pragma once
// config.json and its like, read with a type and a range for every key. Any thread.

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::worker {

// What a checkpoint may ask for. The products of these stay far inside int64_t, and its sums inside
// int32_t.
struct ModelLimits {
  int32_t vocab = 1 << 20;
  int32_t dim = 1 << 16;  // hidden, feed-forward and projection widths
  int32_t layers = 512;
  int32_t heads = 1024;
  int32_t head_dim = 4096;
  int32_t experts = 4096;  // of a layer
  int32_t top_k = 64;
  int32_t context = 1 << 20;  // positions
  int64_t rope_bytes = int64_t{256} << 20;
  int32_t eos = 64;  // end-of-sequence ids
};

// One JSON object of settings. The first wrong setting is kept as the status and everything after
// it reads as the lowest value allowed, so that a family reads straight on and looks at status()
// once. null is as good as absent.
class Config {
 public:
  struct IntRange {
    int64_t low = 0;
    int64_t high = 0;
  };
  struct FloatRange {
    double low = 0;
    double high = 0;
  };

  // `name` stands in messages ("DIR/config.json"). A document that is no object has status
  // INVALID_ARGUMENT.
  Config(const nlohmann::json& document, std::string name);

  // Required settings.
  int32_t Int(const std::string& key, IntRange range);
  double Float(const std::string& key, FloatRange range);
  std::string String(const std::string& key);

  // Settings with a default.
  int32_t IntOr(const std::string& key, int32_t otherwise, IntRange range);
  double FloatOr(const std::string& key, double otherwise, FloatRange range);
  bool BoolOr(const std::string& key, bool otherwise);
  std::string StringOr(const std::string& key, const std::string& otherwise);
  std::vector<int32_t> IntsOr(const std::string& key, IntRange range,
                              size_t max_count);  // one number, or a list; or none
  std::vector<std::string> StringsOr(const std::string& key, size_t max_count);  // a list; or none

  bool Has(const std::string& key) const;
  bool Mentions(const std::string& key) const;  // if only to say null
  // The object under the key; an empty one if it is absent. Its errors are its own: pass them on
  // with Take.
  Config Object(const std::string& key);
  void Take(const Config& inner) { Fail(inner.status()); }

  // Refuses by name a setting that is there and not what we compute: anything but null, or anything
  // but these words.
  void RequireAbsent(const std::string& key);
  // Or a setting that is there and not among these.
  void RequireKnown(const std::vector<std::string>& known);
  void RequireFalse(const std::string& key);
  void RequireOneOf(const std::string& key, const std::string& otherwise,
                    const std::vector<std::string>& supported);
  // INVALID_ARGUMENT "NAME: WHAT", unless something is wrong already.
  void Refuse(const std::string& what);

  const absl::Status& status() const { return status_; }

 private:
  const nlohmann::json* Find(const std::string& key) const;
  const nlohmann::json* Required(const std::string& key);
  void Fail(const absl::Status& status);
  int64_t CheckedInt(const nlohmann::json& value, const std::string& key, IntRange range);
  double CheckedFloat(const nlohmann::json& value, const std::string& key, FloatRange range);

  std::shared_ptr<const nlohmann::json> object_;
  std::string name_;
  absl::Status status_;
};

}  // namespace conclave::worker
