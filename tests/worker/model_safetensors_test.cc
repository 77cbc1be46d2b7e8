// The header parser against headers that lie. Every case says what the message must name.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/testing/tiny_checkpoint.h"
#include "worker/model/safetensors.h"

namespace conclave::worker {
namespace {

using ::testing::HasSubstr;
using testing::SafetensorsBytes;

// What MappedFiles does with a file's bytes.
absl::StatusOr<std::vector<TensorEntry>> Parse(const std::string& file,
                                               const SafetensorsLimits& limits = {}) {
  const auto length =
      SafetensorsHeaderBytes(file.substr(0, 8), file.size(), "x.safetensors", limits);
  if (!length.ok()) return length.status();
  return ParseSafetensorsHeader(std::string_view(file).substr(8, *length), file.size(),
                                "x.safetensors", limits);
}

std::string Data(size_t bytes) { return std::string(bytes, '\x11'); }

TEST(Safetensors, ReadsTensorsInTheOrderOfTheirBytes) {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"empty":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]}} )";
  const auto tensors = Parse(SafetensorsBytes(header, Data(16)));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_EQ((*tensors)[0].begin, 8 + header.size());
  EXPECT_TRUE((*tensors)[0].shape.empty());
  EXPECT_EQ((*tensors)[1].name, "b");
  EXPECT_EQ((*tensors)[1].type, "BF16");
  EXPECT_EQ((*tensors)[1].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*tensors)[1].end, 8 + header.size() + 16);
  EXPECT_EQ((*tensors)[2].name, "empty");
}

TEST(Safetensors, ReadsAFileWithoutTensors) { EXPECT_TRUE(Parse(SafetensorsBytes("{}", "")).ok()); }

TEST(Safetensors, AcceptsTypesItCannotComputeWithAsLongAsNobodyUsesThem) {
  const auto tensors = Parse(
      SafetensorsBytes(R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", Data(4)));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_FALSE(ComputeType((*tensors)[0].type).has_value());
}

struct BadFile {
  const char* name;
  std::string file;
  const char* message;
};
void PrintTo(const BadFile& bad, std::ostream* out) { *out << bad.name; }

std::string Header(const std::string& header, size_t data_bytes) {
  return SafetensorsBytes(header, Data(data_bytes));
}
std::string Tensor(const std::string& fields, size_t data_bytes) {
  return Header("{\"w\":{" + fields + "}}", data_bytes);
}
std::string WithLength(uint64_t length, const std::string& rest) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>((length >> (8 * i)) & 0xff));
  return file + rest;
}

class SafetensorsRefuses : public ::testing::TestWithParam<BadFile> {};

TEST_P(SafetensorsRefuses, ByName) {
  const auto tensors = Parse(GetParam().file);
  ASSERT_FALSE(tensors.ok());
  EXPECT_EQ(tensors.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(tensors.status().message());
  EXPECT_THAT(message, HasSubstr(GetParam().message));
  EXPECT_THAT(message, HasSubstr("x.safetensors: "));
  EXPECT_LT(message.size(), 700u);
}

INSTANTIATE_TEST_SUITE_P(
    Length, SafetensorsRefuses,
    ::testing::Values(BadFile{"Empty", "", "has 0 bytes, a safetensors file has at least 8"},
                      BadFile{"SevenBytes", std::string(7, '\0'), "has 7 bytes"},
                      BadFile{"HeaderBeyondTheFile", WithLength(3, "{}"),
                              "header of 3 bytes in a file of 10: truncated"},
                      BadFile{"HeaderBeyondTheLimit", WithLength(100'000'001, "{}"),
                              "header of 100000001 bytes, the limit is 100000000"},
                      BadFile{"HeaderOfAllOnes", WithLength(UINT64_MAX, "{}"),
                              "header of 18446744073709551615 bytes"},
                      BadFile{"HeaderOf2To63", WithLength(uint64_t{1} << 63, "{}"), "the limit is"},
                      BadFile{"NoHeader", WithLength(0, ""), "does not begin with '{'"}),
    [](const auto& one) { return one.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Json, SafetensorsRefuses,
    ::testing::Values(
        BadFile{"SpaceBefore", Header(" {}", 0), "does not begin with '{'"},
        BadFile{"ByteOrderMark", Header("\xef\xbb\xbf{}", 0), "does not begin with '{'"},
        BadFile{"Array", Header("[]", 0), "does not begin with '{'"},
        BadFile{"Unfinished", Header("{", 0), "not JSON in UTF-8 at byte"},
        BadFile{"TwoDocuments", Header("{}{}", 0), "not JSON"},
        BadFile{"TrailingComma", Header("{\"a\":1,}", 0),
                "tensor \"a\": a number where none belongs"},
        BadFile{"ZeroByteAfter", Header(std::string("{}\0\0", 4), 0), "header has a zero byte"},
        BadFile{"ZeroByteInside", Header(std::string("{\0}", 3), 0), "header has a zero byte"},
        BadFile{"NotUtf8", Header("{\"\xff\xfe\":{}}", 0), "not JSON in UTF-8"},
        BadFile{"OverlongUtf8", Header("{\"\xc0\xaf\":{}}", 0), "not JSON in UTF-8"},
        BadFile{"LoneSurrogate", Header("{\"\\ud800\":{}}", 0), "not JSON"},
        BadFile{"Comment", Header("{/**/}", 0), "not JSON"},
        BadFile{"DeepArrays", Header("{\"a\":" + std::string(1'000'000, '[') + "}", 0),
                "tensor \"a\": an array where none belongs"},
        BadFile{"DeepObjects",
                Header(
                    [] {
                      std::string deep = "{\"a\":";
                      for (int i = 0; i < 100'000; ++i) deep += "{\"shape\":";
                      return deep;
                    }(),
                    0),
                "tensor \"a\": an object where none belongs"},
        BadFile{"DeepShape", Tensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])", 4),
                "an array where none"},
        BadFile{"TensorIsNull", Header(R"({"a":null})", 0), "null where none belongs"},
        BadFile{"TensorIsText", Header(R"({"a":"b"})", 0), "a string where none belongs"},
        BadFile{"MetadataIsNumber", Header(R"({"__metadata__":7})", 0),
                "header has a number where none belongs"},
        BadFile{"MetadataOfNumbers", Header(R"({"__metadata__":{"a":7}})", 0),
                "header has a number where none"},
        BadFile{"MetadataNested", Header(R"({"__metadata__":{"a":{}}})", 0),
                "header has an object where none"},
        BadFile{"MetadataKeyTwice", Header(R"({"__metadata__":{"a":"","a":""}})", 0),
                "__metadata__ has key \"a\" twice"},
        BadFile{"MetadataTwice", Header(R"({"__metadata__":{},"__metadata__":{}})", 0),
                "\"__metadata__\" appears twice"}),
    [](const auto& one) { return one.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Tensor, SafetensorsRefuses,
    ::testing::Values(
        BadFile{"NoType", Tensor(R"("shape":[1],"data_offsets":[0,4])", 4),
                "tensor \"w\": dtype is missing"},
        BadFile{"NoShape", Tensor(R"("dtype":"F32","data_offsets":[0,4])", 4),
                "tensor \"w\": shape is missing"},
        BadFile{"NoOffsets", Tensor(R"("dtype":"F32","shape":[1])", 4),
                "tensor \"w\": data_offsets is missing"},
        BadFile{"UnknownType", Tensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])", 4),
                "unknown dtype \"F31\""},
        BadFile{"LowerCaseType", Tensor(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])", 4),
                "unknown dtype"},
        BadFile{"TypeIsNumber", Tensor(R"("dtype":32,"shape":[1],"data_offsets":[0,4])", 4),
                "a number where none"},
        BadFile{"UnknownKey",
                Tensor(R"("dtype":"F32","shape":[1],"strides":[1],"data_offsets":[0,4])", 4),
                "unknown key \"strides\""},
        BadFile{"KeyTwice",
                Tensor(R"("dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4])", 4),
                "key \"dtype\" appears twice"},
        BadFile{"ShapeTwice",
                Tensor(R"("dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4])", 4),
                "key \"shape\" appears twice"},
        BadFile{
            "NameTwice",
            Header(
                R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                2),
            "key \"w\" appears twice"},
        BadFile{"NameEmpty", Header(R"({"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1),
                "tensor name \"\" has 0 bytes"},
        BadFile{"NameLong",
                Header("{\"" + std::string(513, 'n') +
                           R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                       1),
                "has 513 bytes, allowed are 1 to 512"},
        BadFile{"NegativeDimension",
                Tensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", 4),
                "negative number -1"},
        BadFile{"FractionalDimension",
                Tensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])", 4),
                "1.0 is not an integer"},
        BadFile{"DimensionBeyondUint64",
                Tensor(R"("dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4])", 4),
                "is not an integer of 64 bits"},
        BadFile{"DimensionOf2To63",
                Tensor(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4])", 4),
                "dimension 9223372036854775808 is too large"},
        BadFile{"ShapeOverflows",
                Tensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0),
                "shape [4294967296, 4294967296] of F32 is no whole number"},
        BadFile{"BytesOverflow",
                Tensor(R"("dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0])", 0),
                "is no whole number of bytes"},
        BadFile{"HalfAByte", Tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])", 1),
                "is no whole number of bytes"},
        BadFile{"TooManyDimensions",
                Tensor(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])", 1),
                "has more than 8 dimensions"},
        BadFile{"OneOffset", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])", 4),
                "data_offsets has 1 numbers, expected 2"},
        BadFile{"ThreeOffsets", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])", 4),
                "a number where none"},
        BadFile{"NegativeOffset", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])", 4),
                "negative number -4"},
        BadFile{"EndBeforeBegin", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])", 4),
                "data_offsets [4, 0] end before they begin"},
        BadFile{"TooFewBytes", Tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", 4),
                "data_offsets span 4 bytes, shape [2] of F32 needs 8"},
        BadFile{"TooManyBytes", Tensor(R"("dtype":"BF16","shape":[1],"data_offsets":[0,4])", 4),
                "span 4 bytes"},
        BadFile{"BeyondTheFile", Tensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", 4),
                "data ends at byte 8, the file has 4 bytes of data"},
        BadFile{
            "FarBeyondTheFile",
            Tensor(
                R"("dtype":"U8","shape":[1152921504606846976],"data_offsets":[0,1152921504606846976])",
                4),
            "data ends at byte 1152921504606846976"},
        BadFile{"TrailingBytes", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])", 5),
                "1 bytes of data belong to no tensor"},
        BadFile{"GapBefore", Tensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])", 8),
                "begin at 4, expected 0 (gap)"},
        BadFile{
            "GapBetween",
            Header(
                R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                3),
            "tensor \"w\": data_offsets begin at 2, expected 1 (gap)"},
        BadFile{
            "Overlap",
            Header(
                R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                3),
            "tensor \"w\": data_offsets begin at 1, expected 2 (overlap)"},
        BadFile{
            "SameBytesTwice",
            Header(
                R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})",
                2),
            "(overlap)"},
        BadFile{"DataWithoutTensors", Header("{}", 4), "4 bytes of data belong to no tensor"}),
    [](const auto& one) { return one.param.name; });

TEST(Safetensors, EscapesNamesInMessages) {
  const auto tensors =
      Parse(Header("{\"a\\u0000\\n\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,1]}}", 1));
  EXPECT_THAT(std::string(tensors.status().message()), HasSubstr(R"(tensor "a\x00\n")"));
}

TEST(Safetensors, KeepsEveryLimitExactly) {
  const std::string two =
      R"({"__metadata__":{"k":"v"},"ab":{"dtype":"U8","shape":[1,1],"data_offsets":[0,1]},"cd":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})";
  const std::string file = SafetensorsBytes(two, Data(2));
  const SafetensorsLimits exact = {
      .header_bytes = two.size(), .tensors = 2, .name_bytes = 2, .rank = 2, .metadata_entries = 1};
  EXPECT_TRUE(Parse(file, exact).ok());

  const auto message = [&](SafetensorsLimits limits) {
    return std::string(Parse(file, limits).status().message());
  };
  SafetensorsLimits limits = exact;
  --limits.header_bytes;
  EXPECT_THAT(message(limits), HasSubstr("the limit is"));
  limits = exact;
  limits.tensors = 1;
  EXPECT_THAT(message(limits), HasSubstr("more than 1 tensors"));
  limits = exact;
  limits.name_bytes = 1;
  EXPECT_THAT(message(limits), HasSubstr("allowed are 1 to 1"));
  limits = exact;
  limits.rank = 1;
  EXPECT_THAT(message(limits), HasSubstr("more than 1 dimensions"));
  limits = exact;
  limits.metadata_entries = 0;
  EXPECT_THAT(message(limits), HasSubstr("more than 0 entries"));
}

TEST(Safetensors, RefusesEveryTruncationOfAGoodFile) {
  const std::string file = SafetensorsBytes(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"BF16","shape":[2],"data_offsets":[4,8]}})",
      Data(8));
  ASSERT_TRUE(Parse(file).ok());
  for (size_t bytes = 0; bytes < file.size(); ++bytes) {
    EXPECT_FALSE(Parse(file.substr(0, bytes)).ok()) << bytes;
  }
}

}  // namespace
}  // namespace conclave::worker
