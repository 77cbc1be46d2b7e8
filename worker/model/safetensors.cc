#include "worker/model/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "worker/model/json.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

struct TypeBits {
  std::string_view name;
  uint64_t bits;
};
constexpr TypeBits kTypes[] = {
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
};

std::optional<uint64_t> BitsOf(std::string_view type) {
  for (const TypeBits& known : kTypes) {
    if (known.name == type) return known.bits;
  }
  return std::nullopt;
}

// Reads the one shape a header may have, event by event; anything else ends the parse at once, so
// neither depth nor size of what is refused costs memory. Offsets are kept as written, relative to
// the data.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderReader(const SafetensorsLimits& limits) : limits_(limits) {}

  const std::string& error() const { return error_; }
  std::vector<TensorEntry> TakeTensors() { return std::move(tensors_); }

  bool start_object(std::size_t) override {
    switch (at_) {
      case At::kStart:
        at_ = At::kRoot;
        return true;
      case At::kTensorStart:
        at_ = At::kTensor;
        has_type_ = has_shape_ = has_offsets_ = false;
        return true;
      case At::kMetadataStart:
        at_ = At::kMetadata;
        return true;
      default:
        return Unexpected("an object");
    }
  }
  bool end_object() override {
    switch (at_) {
      case At::kRoot:
        at_ = At::kEnd;
        return true;
      case At::kMetadata:
        at_ = At::kRoot;
        return true;
      case At::kTensor:
        at_ = At::kRoot;
        return CompleteTensor();
      default:
        return Unexpected("the end of an object");
    }
  }
  bool key(string_t& name) override {
    switch (at_) {
      case At::kRoot:
        return StartTensor(name);
      case At::kTensor:
        return StartField(name);
      case At::kMetadata:
        if (!metadata_keys_.insert(name).second)
          return Fail("__metadata__ has key \"%s\" twice", Printable(name));
        if (metadata_keys_.size() > limits_.metadata_entries) {
          return Fail("__metadata__ has more than %d entries", limits_.metadata_entries);
        }
        at_ = At::kMetadataValue;
        return true;
      default:
        return Unexpected("a key");
    }
  }
  bool string(string_t& value) override {
    if (at_ == At::kMetadataValue) {
      at_ = At::kMetadata;
      return true;
    }
    if (at_ != At::kType) return Unexpected("a string");
    if (!BitsOf(value))
      return Fail("tensor \"%s\": unknown dtype \"%s\"", Name(), Printable(value));
    tensors_.back().type = value;
    at_ = At::kTensor;
    return true;
  }
  bool start_array(std::size_t) override {
    switch (at_) {
      case At::kShapeStart:
        at_ = At::kShape;
        return true;
      case At::kOffsetsStart:
        at_ = At::kOffsets;
        return true;
      default:
        return Unexpected("an array");
    }
  }
  bool end_array() override {
    if (at_ == At::kOffsets && offsets_.size() != 2) {
      return Fail("tensor \"%s\": data_offsets has %d numbers, expected 2", Name(),
                  offsets_.size());
    }
    at_ = At::kTensor;
    return true;
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (at_ == At::kShape) {
      std::vector<int64_t>& shape = tensors_.back().shape;
      if (shape.size() == limits_.rank) {
        return Fail("tensor \"%s\": has more than %d dimensions", Name(), limits_.rank);
      }
      if (value > INT64_MAX) return Fail("tensor \"%s\": dimension %d is too large", Name(), value);
      shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (at_ == At::kOffsets && offsets_.size() < 2) {
      offsets_.push_back(value);
      return true;
    }
    return Unexpected("a number");
  }
  bool number_integer(number_integer_t value) override {
    return Fail("tensor \"%s\": negative number %d", Name(), value);
  }
  bool number_float(number_float_t, const string_t& text) override {
    return Fail("tensor \"%s\": %s is not an integer of 64 bits", Name(), Printable(text));
  }
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a truth value"); }
  bool binary(binary_t&) override { return Unexpected("binary"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Fail("header is not JSON in UTF-8 at byte %d", position);
  }

 private:
  // What the next event belongs to.
  enum class At : uint8_t {
    kStart,
    kRoot,
    kEnd,
    kTensorStart,
    kTensor,
    kType,
    kShapeStart,
    kShape,
    kOffsetsStart,
    kOffsets,
    kMetadataStart,
    kMetadata,
    kMetadataValue,
  };

  bool StartTensor(const std::string& name) {
    if (!names_.insert(name).second) return Fail("key \"%s\" appears twice", Printable(name));
    if (name == "__metadata__") {
      at_ = At::kMetadataStart;
      return true;
    }
    if (name.empty() || name.size() > limits_.name_bytes) {
      return Fail("tensor name \"%s\" has %d bytes, allowed are 1 to %d", Printable(name),
                  name.size(), limits_.name_bytes);
    }
    if (tensors_.size() == limits_.tensors) return Fail("more than %d tensors", limits_.tensors);
    tensors_.push_back({.name = name});
    at_ = At::kTensorStart;
    return true;
  }

  bool StartField(const std::string& name) {
    bool* seen = nullptr;
    if (name == "dtype") {
      seen = &has_type_;
      at_ = At::kType;
    } else if (name == "shape") {
      seen = &has_shape_;
      at_ = At::kShapeStart;
    } else if (name == "data_offsets") {
      seen = &has_offsets_;
      at_ = At::kOffsetsStart;
      offsets_.clear();
    } else {
      return Fail("tensor \"%s\": unknown key \"%s\"", Name(), Printable(name));
    }
    if (*seen) return Fail("tensor \"%s\": key \"%s\" appears twice", Name(), name);
    *seen = true;
    return true;
  }

  bool CompleteTensor() {
    for (const auto& [seen, field] : {std::pair(has_type_, "dtype"), std::pair(has_shape_, "shape"),
                                      std::pair(has_offsets_, "data_offsets")}) {
      if (!seen) return Fail("tensor \"%s\": %s is missing", Name(), field);
    }
    tensors_.back().begin = offsets_[0];
    tensors_.back().end = offsets_[1];
    return true;
  }

  template <typename... Args>
  bool Fail(const absl::FormatSpec<Args...>& format, const Args&... args) {
    error_ = absl::StrFormat(format, args...);
    return false;
  }
  bool Unexpected(const char* what) {
    const bool in_tensor = at_ >= At::kTensorStart && at_ <= At::kOffsets;
    return in_tensor ? Fail("tensor \"%s\": %s where none belongs", Name(), what)
                     : Fail("header has %s where none belongs", what);
  }
  std::string Name() const { return tensors_.empty() ? "" : Printable(tensors_.back().name); }

  const SafetensorsLimits& limits_;
  At at_ = At::kStart;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
  std::vector<TensorEntry> tensors_;
  std::vector<uint64_t> offsets_;
  bool has_type_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  std::string error_;
};

// Bytes of a tensor by type and shape; nothing if that overflows or is no whole number of bytes.
std::optional<uint64_t> SizeOf(const TensorEntry& tensor) {
  uint64_t numbers = 1;
  for (const int64_t dimension : tensor.shape) {
    if (__builtin_mul_overflow(numbers, static_cast<uint64_t>(dimension), &numbers))
      return std::nullopt;
  }
  uint64_t bits = 0;
  if (__builtin_mul_overflow(numbers, *BitsOf(tensor.type), &bits) || bits % 8 != 0)
    return std::nullopt;
  return bits / 8;
}

// Every tensor begins where the one before ended and is as long as its shape says. Offsets relative
// to the data.
absl::Status CheckLayout(const std::vector<TensorEntry>& tensors, uint64_t data_bytes,
                         const std::string& file) {
  uint64_t end = 0;
  for (const TensorEntry& tensor : tensors) {
    const auto fail = [&](const std::string& what) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: tensor \"%s\": %s", file, Printable(tensor.name), what));
    };
    if (tensor.end < tensor.begin) {
      return fail(
          absl::StrFormat("data_offsets [%d, %d] end before they begin", tensor.begin, tensor.end));
    }
    if (tensor.begin != end) {
      return fail(absl::StrFormat("data_offsets begin at %d, expected %d (%s)", tensor.begin, end,
                                  tensor.begin < end ? "overlap" : "gap"));
    }
    const std::optional<uint64_t> size = SizeOf(tensor);
    if (!size) {
      return fail(absl::StrFormat("shape %s of %s is no whole number of bytes below 2^61",
                                  ShapeText(tensor.shape), tensor.type));
    }
    if (tensor.end - tensor.begin != *size) {
      return fail(absl::StrFormat("data_offsets span %d bytes, shape %s of %s needs %d",
                                  tensor.end - tensor.begin, ShapeText(tensor.shape), tensor.type,
                                  *size));
    }
    if (tensor.end > data_bytes) {
      return fail(absl::StrFormat("data ends at byte %d, the file has %d bytes of data", tensor.end,
                                  data_bytes));
    }
    end = tensor.end;
  }
  if (end != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: %d bytes of data belong to no tensor", file, data_bytes - end));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<DType> ComputeType(std::string_view type) {
  if (type == "F32") return DType::kF32;
  if (type == "BF16") return DType::kBF16;
  if (type == "F16") return DType::kF16;
  return std::nullopt;
}

const char* TypeName(DType type) {
  switch (type) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kMxInt8:
      return "MXINT8";
    case DType::kMxFp4:
      return "MXFP4";
  }
  return "";
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return "[" + absl::StrJoin(shape, ", ") + "]";
}

absl::StatusOr<uint64_t> SafetensorsHeaderBytes(std::string_view first_bytes, uint64_t file_bytes,
                                                const std::string& file,
                                                const SafetensorsLimits& limits) {
  if (first_bytes.size() < kSafetensorsLengthBytes || file_bytes < kSafetensorsLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: has %d bytes, a safetensors file has at least %d", file, file_bytes,
                        kSafetensorsLengthBytes));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kSafetensorsLengthBytes; ++i) {
    length |= uint64_t{static_cast<unsigned char>(first_bytes[i])} << (8 * i);
  }
  if (length > limits.header_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: header of %d bytes, the limit is %d",
                                                      file, length, limits.header_bytes));
  }
  if (length > file_bytes - kSafetensorsLengthBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: header of %d bytes in a file of %d: truncated", file, length, file_bytes));
  }
  return length;
}

absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::string_view header,
                                                                uint64_t file_bytes,
                                                                const std::string& file,
                                                                const SafetensorsLimits& limits) {
  if (file_bytes < kSafetensorsLengthBytes + header.size()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: shorter than its header", file));
  }
  if (header.empty() || header.front() != '{') {
    return absl::InvalidArgumentError(absl::StrFormat("%s: header does not begin with '{'", file));
  }
  // The parser would take a zero byte for the end and not look at what follows.
  if (header.find('\0') != header.npos) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: header has a zero byte", file));
  }
  HeaderReader reader(limits);
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &reader)) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %s", file, reader.error()));
  }
  std::vector<TensorEntry> tensors = reader.TakeTensors();
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const uint64_t data = kSafetensorsLengthBytes + header.size();
  CONCLAVE_RETURN_IF_ERROR(CheckLayout(tensors, file_bytes - data, file));
  for (TensorEntry& tensor : tensors) {
    tensor.begin += data;
    tensor.end += data;
  }
  return tensors;
}

}  // namespace conclave::worker
