#pragma once
// What a router or the scheduler says of its cluster.

#include <gtest/gtest.h>

#include <string>

#include "conclave/v1/cluster.grpc.pb.h"
#include "services/channel.h"

namespace conclave::services::testing {

inline v1::StatusResponse AskStatus(const std::string& server) {
  const auto stub = v1::Cluster::NewStub(MakeChannel(server, Credentials()));
  grpc::ClientContext context;
  v1::StatusResponse response;
  const grpc::Status status = stub->Status(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

}  // namespace conclave::services::testing
