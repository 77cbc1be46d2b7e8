// A frame is what it says, or it is refused before memory is taken for it.

#include "worker/experts/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace conclave::worker {
namespace {

using ::testing::HasSubstr;

constexpr FrameLimits kLimits = {
    .type = DType::kBF16, .layers = 3, .experts = 24, .dim = 8, .rows = 16, .routes = 32};

FrameHeader RowsHeader() {
  FrameHeader header = {.type = DType::kBF16,
                        .layer = 2,
                        .epoch = 7,
                        .plan = 8,
                        .from = 9,
                        .to = 10,
                        .request = 11,
                        .step = 12,
                        .attempt = 1,
                        .rows = 3,
                        .routes = 5,
                        .dim = 8};
  header.body_bytes = BodyBytes(header);
  return header;
}

std::vector<std::byte> BodyOf(const FrameHeader& header) {
  std::vector<std::byte> body(BodyBytes(header));
  const std::span<FrameRoute> routes = MutableRoutesOf(header, body);
  for (uint32_t i = 0; i < header.routes; ++i) routes[i] = {i % header.rows, i};
  return body;
}

TEST(Frame, ComesBackAsItWasWritten) {
  FrameHeader header = RowsHeader();
  header.body_hash = 77;
  header.sequence = 78;
  const auto parsed = ParseHeader(EncodeHeader(header), kLimits);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(EncodeHeader(*parsed), EncodeHeader(header));
  EXPECT_EQ(parsed->request, 11u);
  EXPECT_EQ(parsed->body_hash, 77u);
  EXPECT_EQ(parsed->sequence, 78u);
}

TEST(Frame, ARefusalSaysWhatIsLacking) {
  const FrameHeader header = {
      .kind = FrameKind::kRefusal, .refusal = Refusal::kLacking, .lacking = 77};
  const auto parsed = ParseHeader(EncodeHeader(header), kLimits);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->refusal, Refusal::kLacking);
  EXPECT_EQ(parsed->lacking, 77u);
}

TEST(Frame, KeepsItsRowsBehindTheRoutesAndAligned) {
  const FrameHeader header = RowsHeader();
  EXPECT_EQ(header.body_bytes, 64u + 3 * 8 * 2);
  const std::vector<std::byte> body = BodyOf(header);
  EXPECT_EQ(RowsOf(header, body).data() - body.data(), 64);
  EXPECT_EQ(RoutesOf(header, body)[4].expert, 4u);
}

TEST(Frame, IsRefusedWhenAnyBitOfItsHeaderIsAnother) {
  const FrameHeaderBytes good = EncodeHeader(RowsHeader());
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    FrameHeaderBytes bad = good;
    bad[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_FALSE(ParseHeader(bad, kLimits).ok()) << bit;
  }
}

struct BadHeader {
  std::string name;
  std::function<void(FrameHeader&)> change;
  std::string message;
};

class FrameHeaderRefuses : public ::testing::TestWithParam<BadHeader> {};

TEST_P(FrameHeaderRefuses, WhatIsPastItsLimits) {
  FrameHeader header = RowsHeader();
  GetParam().change(header);
  const auto parsed = ParseHeader(EncodeHeader(header), kLimits);
  ASSERT_FALSE(parsed.ok());
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Rows, FrameHeaderRefuses,
    ::testing::Values(
        BadHeader{"Kind", [](FrameHeader& h) { h.kind = static_cast<FrameKind>(9); }, "kind"},
        BadHeader{"Type", [](FrameHeader& h) { h.type = DType::kF32; }, "another type"},
        BadHeader{"Dim", [](FrameHeader& h) { h.dim = 9; }, "another width"},
        BadHeader{"Layer", [](FrameHeader& h) { h.layer = 3; }, "is the layer"},
        BadHeader{"Rows",
                  [](FrameHeader& h) {
                    h.rows = 17;
                    h.routes = 17;
                  },
                  "17 rows, the limit is 16"},
        BadHeader{"ManyRows", [](FrameHeader& h) { h.rows = 1u << 31; }, "rows, the limit"},
        BadHeader{"Routes", [](FrameHeader& h) { h.routes = 33; }, "33 routes, the limit is 32"},
        BadHeader{"NoRoute", [](FrameHeader& h) { h.routes = 2; }, "without a route"},
        BadHeader{"NoRow", [](FrameHeader& h) { h.rows = 0; }, "without a route"},
        BadHeader{"Sums", [](FrameHeader& h) { h.sums = 1; }, "sums of another kind"},
        BadHeader{"Length", [](FrameHeader& h) { ++h.body_bytes; }, "does not follow"},
        BadHeader{"Refusal", [](FrameHeader& h) { h.refusal = Refusal::kEpoch; }, "refusal"},
        BadHeader{"AliveWithBody", [](FrameHeader& h) { h.kind = FrameKind::kAlive; }, "no body"},
        BadHeader{"RefusalOfNothing", [](FrameHeader& h) { h.kind = FrameKind::kRefusal; },
                  "unknown refusal"}),
    [](const auto& row) { return row.param.name; });

TEST(Frame, OfTheLargestCountsIsTaken) {
  FrameHeader header = RowsHeader();
  header.rows = 16;
  header.routes = 32;
  header.layer = 2;
  header.body_bytes = BodyBytes(header);
  EXPECT_TRUE(ParseHeader(EncodeHeader(header), kLimits).ok());
}

constexpr FrameLimits kSumLimits = {.type = DType::kBF16,
                                    .layers = 3,
                                    .experts = 24,
                                    .dim = 8,
                                    .rows = 16,
                                    .routes = 32,
                                    .returns = Returns::kSums};

// Of two rows, three sums.
FrameHeader TermsHeader() {
  FrameHeader header = RowsHeader();
  header.kind = FrameKind::kTerms;
  header.rows = 2;
  header.sums = 3;
  header.body_bytes = BodyBytes(header);
  return header;
}

std::vector<std::byte> TermsBody() {
  const FrameHeader header = TermsHeader();
  std::vector<std::byte> body(BodyBytes(header));
  constexpr uint32_t kRowOf[] = {0, 0, 0, 1, 1}, kSumOf[] = {0, 0, 1, 2, 2};
  for (uint32_t i = 0; i < header.routes; ++i) {
    MutableRoutesOf(header, body)[i] = {kRowOf[i], i};
    MutableTermsOf(header, body)[i] = {0.5f, kSumOf[i]};
  }
  return body;
}

TEST(FrameOfTerms, ComesBackAsItWasWrittenAndKeepsItsRowsAligned) {
  const FrameHeader header = TermsHeader();
  EXPECT_EQ(header.body_bytes, 128u + 2 * 8 * 2) << "five routes, five terms";
  const auto parsed = ParseHeader(EncodeHeader(header), kSumLimits);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(EncodeHeader(*parsed), EncodeHeader(header));
  const std::vector<std::byte> body = TermsBody();
  EXPECT_TRUE(CheckBody(*parsed, body, kSumLimits).ok());
  EXPECT_EQ(TermsOf(header, body)[3].sum, 2u);
  FrameHeader answer = header;
  answer.kind = AnswerTo(header.kind);
  EXPECT_EQ(BodyBytes(answer), 3u * 8 * 2);
}

TEST(FrameOfTerms, IsRefusedByNameWhereRowsAreReturnedAndTheReverse) {
  const auto sums = ParseHeader(EncodeHeader(TermsHeader()), kLimits);
  EXPECT_THAT(std::string(sums.status().message()),
              HasSubstr("its worker returns sums, this one rows; see --returns"));
  const auto rows = ParseHeader(EncodeHeader(RowsHeader()), kSumLimits);
  EXPECT_THAT(std::string(rows.status().message()), HasSubstr("returns rows, this one sums"));
}

class FrameOfTermsRefuses : public ::testing::TestWithParam<BadHeader> {};

TEST_P(FrameOfTermsRefuses, WhatIsPastItsLimits) {
  FrameHeader header = TermsHeader();
  GetParam().change(header);
  const auto parsed = ParseHeader(EncodeHeader(header), kSumLimits);
  ASSERT_FALSE(parsed.ok());
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Sums, FrameOfTermsRefuses,
    ::testing::Values(
        BadHeader{"Many", [](FrameHeader& h) { h.sums = 6; }, "6 sums, the limit is 5"},
        BadHeader{"Few", [](FrameHeader& h) { h.sums = 1; }, "a row without a sum"},
        BadHeader{"Rows", [](FrameHeader& h) { h.rows = 1u << 31; }, "rows, the limit"},
        BadHeader{"Length", [](FrameHeader& h) { --h.body_bytes; }, "does not follow"},
        BadHeader{"Answer",
                  [](FrameHeader& h) {
                    h.kind = FrameKind::kSums;
                    h.body_bytes = 5 * 8 * 2;  // a row for each route
                  },
                  "does not follow"}),
    [](const auto& row) { return row.param.name; });

TEST(FrameOfTerms, IsRefusedWhenItsSumsAreNone) {
  const FrameHeader header = TermsHeader();
  const auto problem = [&](size_t route, FrameTerm term) {
    std::vector<std::byte> body = TermsBody();
    MutableTermsOf(header, body)[route] = term;
    return std::string(CheckBody(header, body, kSumLimits).message());
  };
  EXPECT_THAT(problem(0, {1.0f, 1}), HasSubstr("out of order"));
  EXPECT_THAT(problem(4, {1.0f, 1}), HasSubstr("out of order"));
  EXPECT_THAT(problem(4, {1.0f, 3}), HasSubstr("out of order"));
  EXPECT_THAT(problem(3, {1.0f, 1}), HasSubstr("a sum of several rows"));
  EXPECT_THAT(problem(2, {1.0f, 0}), HasSubstr("out of order")) << "no 1 before the 2";
  std::vector<std::byte> body = TermsBody();
  for (const size_t route : {size_t{3}, size_t{4}}) {
    MutableRoutesOf(header, body)[route].row = 0;
    MutableTermsOf(header, body)[route].sum = 1;
  }
  EXPECT_THAT(std::string(CheckBody(header, body, kSumLimits).message()),
              HasSubstr("a sum of nothing"));
  EXPECT_EQ(problem(2, {std::numeric_limits<float>::quiet_NaN(), 1}), "")
      << "the weights are the home's business";
}

TEST(FrameBody, IsRefusedWhenARouteLeadsNowhere) {
  const FrameHeader header = RowsHeader();
  std::vector<std::byte> body = BodyOf(header);
  EXPECT_TRUE(CheckBody(header, body, kLimits).ok());
  MutableRoutesOf(header, body)[1].row = 3;
  EXPECT_FALSE(CheckBody(header, body, kLimits).ok());
  MutableRoutesOf(header, body)[1] = {0, 24};
  EXPECT_THAT(std::string(CheckBody(header, body, kLimits).message()),
              HasSubstr("24 is the expert"));
}

TEST(FrameBody, IsRefusedWhenItsHashIsAnother) {
  FrameHeader header = RowsHeader();
  std::vector<std::byte> body = BodyOf(header);
  header.body_hash = HashBody(body);
  EXPECT_TRUE(CheckBody(header, body, kLimits).ok());
  body.back() ^= std::byte{1};
  EXPECT_THAT(std::string(CheckBody(header, body, kLimits).message()), HasSubstr("checksum"));
  body.pop_back();
  EXPECT_THAT(std::string(CheckBody(header, body, kLimits).message()), HasSubstr("length"));
}

TEST(FrameRows, RoundToNearestEvenAndKeepWhatIsNotANumber) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> row = {1.0f, -2.5f, 1.00390625f, 1.01171875f, inf, -inf, nan, 3e-42f};
  std::vector<std::byte> packed(row.size() * 2);
  PackRow(row.data(), row.size(), DType::kBF16, packed.data());
  std::vector<float> back(row.size());
  UnpackRow(packed.data(), row.size(), DType::kBF16, back.data());
  EXPECT_EQ(back[0], 1.0f);
  EXPECT_EQ(back[1], -2.5f);
  EXPECT_EQ(back[2], 1.0f);       // a tie goes to the even one below
  EXPECT_EQ(back[3], 1.015625f);  // and above
  EXPECT_EQ(back[4], inf);
  EXPECT_EQ(back[5], -inf);
  EXPECT_TRUE(std::isnan(back[6]));
}

TEST(FrameRows, OfFullWidthTravelAsTheyAre) {
  const std::vector<float> row = {0.1f, -0.0f, 1e-40f, 3e38f};
  std::vector<std::byte> packed(row.size() * 4);
  PackRow(row.data(), row.size(), DType::kF32, packed.data());
  std::vector<float> back(row.size());
  UnpackRow(packed.data(), row.size(), DType::kF32, back.data());
  EXPECT_EQ(std::memcmp(row.data(), back.data(), packed.size()), 0);
}

}  // namespace
}  // namespace conclave::worker
