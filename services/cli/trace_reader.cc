#include "services/cli/trace_reader.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/model/half.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

using nlohmann::json;
using worker::Printable;

constexpr char kJsonName[] = "trace.json";

// A whole number from 1 to the limit.
std::optional<uint32_t> Count(const json& document, const char* key, uint32_t limit) {
  const auto found = document.find(key);
  if (found == document.end() || !found->is_number_unsigned()) return std::nullopt;
  const auto value = found->get<uint64_t>();
  if (value == 0 || value > limit) return std::nullopt;
  return static_cast<uint32_t>(value);
}

// The numbers of layers, ascending; nothing if they are no such list.
std::optional<std::vector<int32_t>> Layers(const json& document, uint32_t limit) {
  const auto found = document.find("layers");
  if (found == document.end() || !found->is_array() || found->empty() || found->size() > limit)
    return std::nullopt;
  std::vector<int32_t> layers;
  for (const json& layer : *found) {
    if (!layer.is_number_unsigned() || layer.get<uint64_t>() >= limit) return std::nullopt;
    layers.push_back(layer.get<int32_t>());
    if (layers.size() > 1 && layers[layers.size() - 2] >= layers.back()) return std::nullopt;
  }
  return layers;
}

uint16_t Pair(const std::string& bytes, size_t index) {
  return static_cast<uint16_t>(static_cast<unsigned char>(bytes[2 * index]) |
                               static_cast<unsigned char>(bytes[2 * index + 1]) << 8);
}

bool IsTrace(const std::filesystem::path& directory) {
  std::error_code ignored;
  return std::filesystem::exists(directory / kJsonName, ignored);
}

}  // namespace

absl::StatusOr<TraceReader> TraceReader::Open(const std::string& path, const Limits& limits) {
  std::error_code ignored;
  std::filesystem::path directory = std::filesystem::absolute(path, ignored).lexically_normal();
  if (!directory.has_filename()) directory = directory.parent_path();
  std::string mix;
  if (!IsTrace(directory)) {
    mix = directory.filename().string();
    directory = directory.parent_path();
    if (!IsTrace(directory)) {
      return absl::NotFoundError(
          absl::StrFormat("%s: neither it nor its parent has a trace.json", path));
    }
  }
  CONCLAVE_ASSIGN_OR_RETURN(const std::unique_ptr<const worker::Directory> opened,
                            worker::Directory::Open(directory.string()));
  TraceReader reader;
  CONCLAVE_RETURN_IF_ERROR(reader.ReadJson(*opened, mix, limits));
  CONCLAVE_RETURN_IF_ERROR(reader.OpenFiles(*opened, limits));
  CONCLAVE_RETURN_IF_ERROR(reader.CheckLengths());
  return reader;
}

absl::Status TraceReader::ReadJson(const worker::Directory& directory, const std::string& mix,
                                   const Limits& limits) {
  CONCLAVE_ASSIGN_OR_RETURN(const auto file, directory.OpenFile(kJsonName));
  CONCLAVE_ASSIGN_OR_RETURN(const std::string bytes, file->ReadAll(limits.json_bytes));
  CONCLAVE_ASSIGN_OR_RETURN(const json document,
                            worker::ParseJson(bytes, file->path(), {.bytes = limits.json_bytes}));
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", file->path(), what));
  };
  if (!document.is_object()) return refuse("is no object");
  const std::optional<uint32_t> experts = Count(document, "experts", limits.experts);
  const std::optional<uint32_t> top_k = Count(document, "top_k", limits.top_k);
  std::optional<std::vector<int32_t>> layers = Layers(document, limits.layers);
  if (!experts) return refuse(absl::StrFormat("experts is no number from 1 to %d", limits.experts));
  if (!top_k) return refuse(absl::StrFormat("top_k is no number from 1 to %d", limits.top_k));
  if (!layers) {
    return refuse(
        absl::StrFormat("layers is no ascending list of numbers below %d", limits.layers));
  }
  experts_ = *experts;
  top_k_ = *top_k;
  layers_ = *std::move(layers);

  const auto mixes = document.find("mixes");
  if (mixes == document.end() || !mixes->is_object() || mixes->empty())
    return refuse("mixes is no object with an entry");
  std::vector<std::string> names;
  for (const auto& [name, value] : mixes->items()) names.push_back(name);
  const std::string all = Printable(absl::StrJoin(names, ", "));
  if (mix.empty() && names.size() > 1)
    return refuse(absl::StrFormat("has mixes %s: name one, as DIR/MIX", all));
  mix_ = mix.empty() ? names.front() : mix;
  if (!mixes->contains(mix_)) {
    return absl::NotFoundError(
        absl::StrFormat("%s: has no mix \"%s\", it has %s", file->path(), Printable(mix_), all));
  }
  return absl::OkStatus();
}

absl::Status TraceReader::OpenFiles(const worker::Directory& directory, const Limits& limits) {
  const auto open = [&](const char* what, const std::vector<std::string>& types,
                        std::unique_ptr<const NpyReader>& reader) -> absl::Status {
    CONCLAVE_ASSIGN_OR_RETURN(
        NpyReader opened,
        NpyReader::Open(directory, mix_ + "." + what + ".npy", types, limits.npy));
    reader = std::make_unique<const NpyReader>(std::move(opened));
    return absl::OkStatus();
  };
  CONCLAVE_RETURN_IF_ERROR(open("experts", {"|u1", "<u2"}, slots_));
  CONCLAVE_RETURN_IF_ERROR(open("weights", {"<f2"}, weights_));
  CONCLAVE_RETURN_IF_ERROR(open("lengths", {"<i4"}, lengths_));
  for (const NpyReader* const reader : {slots_.get(), weights_.get()}) {
    if (reader->row_shape() == std::vector<uint64_t>{layers_.size(), top_k_}) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: has rows (%s), expected (%d, %d), as trace.json says", reader->path(),
                        absl::StrJoin(reader->row_shape(), ", "), layers_.size(), top_k_));
  }
  if (weights_->rows() != slots_->rows()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: has %d tokens, %s has %d",
                                                      weights_->path(), weights_->rows(),
                                                      slots_->path(), slots_->rows()));
  }
  block_tokens_ = std::max<uint64_t>(1, limits.block_bytes / slots_->row_bytes());
  return absl::OkStatus();
}

absl::Status TraceReader::CheckLengths() const {
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", lengths_->path(), what));
  };
  if (!lengths_->row_shape().empty()) return refuse("has more than one dimension");
  uint64_t tokens = 0;
  for (uint64_t first = 0; first < sequences();) {
    const uint64_t count = std::min<uint64_t>(sequences() - first, 65536);
    CONCLAVE_ASSIGN_OR_RETURN(const std::string bytes, lengths_->Read(first, count));
    for (size_t i = 0; i < count; ++i) {
      const uint32_t length = Pair(bytes, 2 * i) | uint32_t{Pair(bytes, 2 * i + 1)} << 16;
      if (length > INT32_MAX) return refuse(absl::StrFormat("number %d is negative", first + i));
      tokens += length;
    }
    first += count;
  }
  if (tokens == this->tokens()) return absl::OkStatus();
  return refuse(
      absl::StrFormat("sums to %d tokens, %s has %d", tokens, slots_->path(), this->tokens()));
}

absl::StatusOr<TraceReader::Block> TraceReader::Next() {
  Block block = {.tokens = std::min(block_tokens_, tokens() - next_)};
  CONCLAVE_ASSIGN_OR_RETURN(const std::string slots, slots_->Read(next_, block.tokens));
  CONCLAVE_ASSIGN_OR_RETURN(const std::string weights, weights_->Read(next_, block.tokens));
  const size_t per_token = layers_.size() * top_k_;
  const auto refuse = [&](const NpyReader& reader, size_t i, const std::string& what) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: token %d, layer %d has %s",
                                                      reader.path(), next_ + i / per_token,
                                                      layers_[i % per_token / top_k_], what));
  };
  const bool wide = slots_->type() == "<u2";
  for (size_t i = 0; i < block.tokens * per_token; ++i) {
    const uint16_t slot = wide ? Pair(slots, i) : static_cast<unsigned char>(slots[i]);
    const float weight = worker::FromF16(Pair(weights, i));
    if (slot >= experts_)
      return refuse(*slots_, i, absl::StrFormat("expert %d of %d", slot, experts_));
    if (!std::isfinite(weight) || weight < 0.0f)
      return refuse(*weights_, i, absl::StrFormat("weight %g", weight));
    block.slots.push_back(slot);
    block.weights.push_back(weight);
  }
  next_ += block.tokens;
  return block;
}

}  // namespace conclave::services::cli
