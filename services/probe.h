#pragma once
// A look at a router from outside, as its clients would have one. Each waits for the answer, a
// second at most. Any thread.

#include <grpcpp/channel.h>

#include <cstdint>
#include <memory>

namespace conclave::services {

// Whether it takes requests.
bool IsServing(const std::shared_ptr<grpc::Channel>& router);

// Whether it sees so many workers that can compute, and so many routers that can be asked.
bool SeesAll(const std::shared_ptr<grpc::Channel>& router, int32_t workers, int32_t routers);

// Whether every expert that a placement spreads has an owner among the workers that can compute,
// and those step by that placement: until then requests wait, if for an owner that will not come.
bool OwnersServe(const std::shared_ptr<grpc::Channel>& router);

}  // namespace conclave::services
