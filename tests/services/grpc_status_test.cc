#include "services/grpc_status.h"

#include <gtest/gtest.h>

namespace conclave::services {
namespace {

TEST(GrpcStatus, KeepsEveryCodeBothWays) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    EXPECT_EQ(static_cast<int>(ToGrpc(status).error_code()), code);
    EXPECT_EQ(FromGrpc(ToGrpc(status)), status);
  }
}

TEST(GrpcStatus, TakesCodesThatDoNotExistForUnknown) {
  for (const int code : {-1, 0, 17, 1'000'000})
    EXPECT_EQ(FromCode(code, "x").code(), absl::StatusCode::kUnknown);
}

TEST(GrpcStatus, CutsMessagesThatWouldNotFitATrailer) {
  EXPECT_EQ(ToGrpc(absl::InternalError(std::string(1 << 20, 'x'))).error_message().size(),
            kMaxStatusMessageBytes);
}

}  // namespace
}  // namespace conclave::services
