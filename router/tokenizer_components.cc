#include "router/tokenizer_components.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "router/utf8.h"

namespace conclave::router {
namespace {

using Stage = PreTokenizer::Stage;
using Behavior = PreTokenizer::Behavior;

constexpr size_t kStripMax = 1'000'000;

// The parts of a component: of a Sequence, or of Sequences within it, their parts, else itself.
// list: a Sequence's field.
void AddParts(const JsonNode& component, const std::string& list, size_t max,
              std::vector<JsonNode>* parts) {
  if (component.String("type") != "Sequence") {
    if (parts->size() == max) component.Fail("is more than part " + std::to_string(max));
    return parts->push_back(component);
  }
  for (const JsonNode& part : component.List(list, max)) {
    if (!component.ok()) return;
    AddParts(part, list, max, parts);
  }
}

std::vector<JsonNode> PartsOf(const JsonNode& component, const std::string& list, size_t max) {
  std::vector<JsonNode> parts;
  AddParts(component, list, max, &parts);
  if (!component.ok()) parts.clear();
  return parts;
}

// A component's field with text to insert.
std::string Content(const JsonNode& component, const std::string& key, size_t bytes_max) {
  std::string content = component.String(key);
  if (content.size() > bytes_max) {
    component[key].Fail("has " + std::to_string(content.size()) + " bytes, the limit is " +
                        std::to_string(bytes_max));
  }
  return content;
}

// A field that is one character.
std::string Character(const JsonNode& component, const std::string& key,
                      const std::string& otherwise) {
  std::string character = component.String(key, otherwise);
  if (character.empty() || FirstChar(character).bytes != character.size()) {
    component[key].Fail(Quoted(character) + " is not one character");
  }
  return character;
}

// {"String": ...} or {"Regex": ...}; empty if something was noted.
std::vector<TextPattern> Pattern(const JsonNode& component, const ComponentLimits& limits) {
  const JsonNode pattern = component["pattern"];
  const bool is_regex = pattern["Regex"].exists();
  if (is_regex == pattern["String"].exists()) {
    pattern.Fail("is neither a String nor a Regex");
    return {};
  }
  std::string source = Content(pattern, is_regex ? "Regex" : "String", limits.pattern_bytes_max);
  if (!pattern.ok()) return {};
  std::string error;
  auto compiled = is_regex ? TextPattern::Regex(std::move(source), &error)
                           : TextPattern::Literal(std::move(source), &error);
  if (compiled) return {*std::move(compiled)};
  pattern.Fail("is not usable: " + error);
  return {};
}

// NFC, NFD, NFKC, NFKD
std::optional<UnicodeForm> FormOf(const std::string& type) {
  if (type == "NFC") return UnicodeForm::kNfc;
  if (type == "NFD") return UnicodeForm::kNfd;
  if (type == "NFKC") return UnicodeForm::kNfkc;
  if (type == "NFKD") return UnicodeForm::kNfkd;
  return std::nullopt;
}

Behavior ReadBehavior(const JsonNode& component) {
  const std::string name = component.String("behavior");
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  component["behavior"].Unsupported(Quoted(name));
  return Behavior::kIsolated;
}

Stage::Prepend ReadPrepend(const JsonNode& component) {
  // Files before the scheme have add_prefix_space alone.
  const bool adds = component.Bool("add_prefix_space", true);
  const std::string scheme = component.String("prepend_scheme", adds ? "always" : "never");
  if (!adds && scheme != "never") {
    component["prepend_scheme"].Fail(Quoted(scheme) + " contradicts add_prefix_space false");
  }
  if (scheme == "always") return Stage::Prepend::kAlways;
  if (scheme == "first") return Stage::Prepend::kFirst;
  if (scheme != "never") component["prepend_scheme"].Unsupported(Quoted(scheme));
  return Stage::Prepend::kNever;
}

// What stands for a space where a Metaspace names none.
constexpr const char* kMetaspace = "\u2581";

Stage ReadMetaspace(const JsonNode& component) {
  return {.kind = Stage::Kind::kMetaspace,
          .replacement = Character(component, "replacement", kMetaspace),
          .prepend = ReadPrepend(component),
          .split = component.Bool("split", true)};
}

void ReadByteLevel(const JsonNode& component, std::vector<Stage>* stages) {
  if (component.Bool("add_prefix_space", true)) {
    stages->push_back({.kind = Stage::Kind::kPrefixSpace});
  }
  if (component.Bool("use_regex", true)) stages->push_back({.kind = Stage::Kind::kGpt2});
}

// A stage that is neither the ByteLevel nor anything that is not supported.
std::optional<Stage> ReadStage(const JsonNode& component, const ComponentLimits& limits) {
  const std::string type = component.String("type");
  if (type == "Split") {
    return Stage{.kind = Stage::Kind::kSplit,
                 .behavior = ReadBehavior(component),
                 .inverted = component.Bool("invert", false),
                 .pattern = Pattern(component, limits)};
  }
  if (type == "Digits") {
    const bool each = component.Bool("individual_digits", false);
    return Stage{.kind = Stage::Kind::kDigits,
                 .behavior = each ? Behavior::kIsolated : Behavior::kContiguous};
  }
  if (type == "Metaspace") return ReadMetaspace(component);
  if (type == "WhitespaceSplit") {
    return Stage{.kind = Stage::Kind::kWhiteSpace, .behavior = Behavior::kRemoved};
  }
  component.Unsupported(Quoted(type));
  return std::nullopt;
}

using StepKind = Decoder::Step::Kind;

// A part that works on each token by itself.
std::optional<Decoder::Step> ReadDecoderStep(const JsonNode& part, const ComponentLimits& limits) {
  const std::string type = part.String("type");
  if (type == "Replace") {
    return Decoder::Step{.kind = StepKind::kReplace,
                         .pattern = Pattern(part, limits),
                         .content = Content(part, "content", limits.content_bytes_max)};
  }
  if (type == "Strip") {
    return Decoder::Step{.kind = StepKind::kStrip,
                         .content = Character(part, "content", " "),
                         .left = part.Count("start", kStripMax),
                         .right = part.Count("stop", kStripMax)};
  }
  if (type == "Metaspace") {
    return Decoder::Step{.kind = StepKind::kMetaspace,
                         .content = Character(part, "replacement", kMetaspace),
                         .drop_first = ReadPrepend(part) != Stage::Prepend::kNever};
  }
  if (type == "ByteFallback") return Decoder::Step{.kind = StepKind::kByteFallback};
  if (type == "ByteLevel") return Decoder::Step{.kind = StepKind::kByteLevel};
  part.Unsupported(Quoted(type));
  return std::nullopt;
}

// A Strip behind what made one text of the tokens.
Decoder::Trim ReadTrim(const JsonNode& part) {
  const std::string character = Character(part, "content", " ");
  if (character.size() > 1) part["content"].Unsupported(Quoted(character) + " of the whole text");
  return {.character = character.empty() ? ' ' : character[0],
          .left = part.Count("start", kStripMax),
          .right = part.Count("stop", kStripMax)};
}

}  // namespace

std::vector<Normalizer::Step> ReadNormalizer(const JsonNode& normalizer,
                                             const ComponentLimits& limits) {
  using Kind = Normalizer::Step::Kind;
  std::vector<Normalizer::Step> steps;
  if (!normalizer.exists()) return steps;
  for (const JsonNode& part : PartsOf(normalizer, "normalizers", limits.parts_max)) {
    const std::string type = part.String("type");
    if (const auto form = FormOf(type)) {
      steps.push_back({.kind = Kind::kUnicode, .form = *form});
    } else if (type == "Lowercase") {
      steps.push_back({.kind = Kind::kLowercase});
    } else if (type == "Strip") {
      steps.push_back({.kind = Kind::kStrip,
                       .left = part.Bool("strip_left", true),
                       .right = part.Bool("strip_right", true)});
    } else if (type == "Prepend") {
      steps.push_back(
          {.kind = Kind::kPrepend, .content = Content(part, "prepend", limits.content_bytes_max)});
    } else if (type == "Replace") {
      steps.push_back({.kind = Kind::kReplace,
                       .content = Content(part, "content", limits.content_bytes_max),
                       .pattern = Pattern(part, limits)});
    } else {
      part.Unsupported(Quoted(type));
    }
  }
  return steps;
}

PreTokenizerParts ReadPreTokenizer(const JsonNode& pre_tokenizer, const ComponentLimits& limits) {
  PreTokenizerParts result;
  if (!pre_tokenizer.exists()) return result;
  for (const JsonNode& part : PartsOf(pre_tokenizer, "pretokenizers", limits.parts_max)) {
    if (result.byte_level) part.Unsupported("behind a ByteLevel");
    if (part.String("type") == "ByteLevel") {
      ReadByteLevel(part, &result.stages);
      result.byte_level = true;
    } else if (auto stage = ReadStage(part, limits)) {
      result.stages.push_back(*std::move(stage));
    }
    if (!part.ok()) return {};
  }
  return result;
}

DecoderParts ReadDecoder(const JsonNode& decoder, const ComponentLimits& limits) {
  DecoderParts result;
  if (!decoder.exists()) {
    decoder.Unsupported("null");
    return result;
  }
  bool bytes = false, fused = false, trimmed = false;
  for (const JsonNode& part : PartsOf(decoder, "decoders", limits.parts_max)) {
    const std::string type = part.String("type");
    if (type == "Fuse") {
      fused = true;
    } else if (fused) {
      if (type != "Strip") part.Unsupported(Quoted(type) + " of the whole text");
      if (std::exchange(trimmed, true)) part.Unsupported("a second Strip of the whole text");
      result.trim = ReadTrim(part);
    } else {
      if (bytes) part.Unsupported(Quoted(type) + " behind a ByteFallback");
      if (auto step = ReadDecoderStep(part, limits)) result.steps.push_back(*std::move(step));
      bytes = type == "ByteFallback";
      fused = type == "ByteLevel";
    }
    if (!part.ok()) return {};
  }
  return result;
}

}  // namespace conclave::router
