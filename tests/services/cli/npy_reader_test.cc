#include "services/cli/npy_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/worker/testing/tiny_checkpoint.h"

namespace conclave::services::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using worker::testing::TempDir;
using worker::testing::WriteFileOrDie;

// Format 1.0 with this dictionary and data.
std::string Npy(const std::string& dictionary, const std::string& data, char version = 1) {
  std::string bytes = std::string("\x93NUMPY", 6) + version + '\0';
  const size_t length_bytes = version == 1 ? 2 : 4;
  for (size_t i = 0; i < length_bytes; ++i)
    bytes.push_back(static_cast<char>(dictionary.size() >> (8 * i) & 0xFF));
  return bytes + dictionary + data;
}
std::string Dictionary(const std::string& shape, const std::string& type = "|u1") {
  return "{'descr': '" + type + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
}

absl::StatusOr<NpyReader> Open(const std::string& bytes, const NpyLimits& limits = {}) {
  TempDir dir;
  WriteFileOrDie(dir.File("a.npy"), bytes);
  const auto directory = worker::Directory::Open(dir.path());
  return NpyReader::Open(**directory, "a.npy", {"|u1", "<u2"}, limits);
}
std::string Error(const std::string& bytes, const NpyLimits& limits = {}) {
  const auto reader = Open(bytes, limits);
  return reader.ok() ? "none" : std::string(reader.status().message());
}

TEST(NpyReader, ReadsRowsOfAFileAsNumPyWritesIt) {
  for (const char version : {'\1', '\2', '\3'}) {
    const auto reader = Open(Npy(Dictionary("(3, 2, 1)", "<u2"), "aabbccddeeff", version));
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ(reader->type(), "<u2");
    EXPECT_EQ(reader->rows(), 3U);
    EXPECT_THAT(reader->row_shape(), ElementsAre(2, 1));
    EXPECT_EQ(reader->row_bytes(), 4U);
    EXPECT_EQ(*reader->Read(1, 2), "ccddeeff");
    EXPECT_EQ(*reader->Read(3, 0), "");
  }
  EXPECT_EQ(Error(Npy("{\"shape\": (2,), 'fortran_order': False, 'descr': '|u1'}", "ab")), "none");
  EXPECT_EQ(Error(Npy(Dictionary("(0, 5)"), "")), "none");
}

TEST(NpyReader, RefusesWhatIsNoSuchFile) {
  EXPECT_THAT(Error(""), HasSubstr("a.npy: is no .npy file"));
  EXPECT_THAT(Error("PK\x03\x04 and more of it"), HasSubstr("is no .npy file"));
  EXPECT_THAT(Error(Npy(Dictionary("(2,)"), "ab", 4)), HasSubstr("is of format 4.0"));
  EXPECT_THAT(Error(Npy(Dictionary("(2,)"), "ab").substr(0, 40)),
              HasSubstr("ends within its header"));
  EXPECT_THAT(Error(Npy(Dictionary("(2,)", "<f8"), "ab")),
              HasSubstr("has elements of type <f8, expected |u1 or <u2"));
  EXPECT_THAT(Error(Npy(Dictionary("(3,)"), "ab")), HasSubstr("shape (3) of |u1 needs 3 bytes, "));
  EXPECT_THAT(Error(Npy(Dictionary("(1,)"), "ab")), HasSubstr("there are 2"));
  EXPECT_THAT(Error(Npy(Dictionary("()"), "a")), HasSubstr("shape () has no rows"));
  EXPECT_THAT(Error(Npy(Dictionary("(4294967296, 4294967296, 2)"), "")),
              HasSubstr("more bytes than can be counted"));
}

TEST(NpyReader, RefusesAHeaderThatIsNotOfTheFormat) {
  EXPECT_THAT(Error(Npy("no dictionary at all", "")), HasSubstr("its header has no dictionary"));
  EXPECT_THAT(Error(Npy("{'descr' '|u1'}", "")), HasSubstr("no key"));
  EXPECT_THAT(Error(Npy("{'descr': '|u1', 'descr': '|u1'}", "")), HasSubstr("a key twice: descr"));
  EXPECT_THAT(Error(Npy("{'descr': '|u1', 'shape': (2,)}", "ab")), HasSubstr("a key is missing"));
  EXPECT_THAT(Error(Npy("{'descr': [('a', '|u1')]}", "")), HasSubstr("descr is no plain type"));
  EXPECT_THAT(Error(Npy("{'fortran_order': True}", "")), HasSubstr("fortran_order is not False"));
  EXPECT_THAT(Error(Npy("{'shape': 2}", "")), HasSubstr("shape is no tuple"));
  EXPECT_THAT(Error(Npy("{'shape': (-2,)}", "")), HasSubstr("shape has what is no length"));
  EXPECT_THAT(Error(Npy("{'shape': (99999999999999999999,)}", "")),
              HasSubstr("shape has what is no length"));
  EXPECT_THAT(Error(Npy("{'shape': (2 3)}", "")), HasSubstr("shape has no end"));
  EXPECT_THAT(Error(Npy("{'order': 'C'}", "")), HasSubstr("unknown key order"));
  EXPECT_THAT(Error(Npy("{'descr': '|u1'", "")), HasSubstr("no end"));
  EXPECT_THAT(Error(Npy(Dictionary("(2,)") + "more", "ab")), HasSubstr("behind the dictionary"));
}

TEST(NpyReader, KeepsItsLimitsToTheirEdges) {
  const std::string dictionary = Dictionary("(1, 1)");
  NpyLimits limits = {.header_bytes = dictionary.size(), .rank = 2};
  EXPECT_EQ(Error(Npy(dictionary, "a"), limits), "none");
  limits.rank = 1;
  EXPECT_THAT(Error(Npy(dictionary, "a"), limits), HasSubstr("too many dimensions"));
  limits.header_bytes -= 1;
  EXPECT_THAT(Error(Npy(dictionary, "a"), limits), HasSubstr("header of"));
}

}  // namespace
}  // namespace conclave::services::cli
