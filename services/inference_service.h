#pragma once
// The gRPC face of the router, conclave.v1.Inference: translates to a Frontend and from it.
// Messages arrive as bytes and are parsed here, so that a malformed one is INVALID_ARGUMENT, and
// leave as bytes, so that what a client has not read is held once. Calls come on gRPC's threads;
// none blocks.

#include "conclave/v1/inference.grpc.pb.h"
#include "services/authorize.h"
#include "services/farewell.h"
#include "services/frontend.h"

namespace conclave::services {

namespace raw_inference {

template <typename Base>
using WithStreams = v1::Inference::WithRawCallbackMethod_Generate<
    v1::Inference::WithRawCallbackMethod_Chat<v1::Inference::WithRawCallbackMethod_Score<Base>>>;
template <typename Base>
using WithTokens = v1::Inference::WithRawCallbackMethod_Tokenize<
    v1::Inference::WithRawCallbackMethod_Detokenize<Base>>;
using Service = WithStreams<
    WithTokens<v1::Inference::WithRawCallbackMethod_ListModels<v1::Inference::Service>>>;

}  // namespace raw_inference

class InferenceService final : public raw_inference::Service {
 public:
  // The frontend outlives the server that has this service.
  InferenceService(Frontend& frontend, Authorize authorize);

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Chat(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Score(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;

  // For whoever closes the server.
  Farewell& farewell() { return farewell_; }

 private:
  // OK if the caller may use the method.
  absl::StatusOr<std::string> Allow(grpc::CallbackServerContext* context, const char* method) const;

  Frontend& frontend_;
  const Authorize authorize_;
  Farewell farewell_;
};

}  // namespace conclave::services
