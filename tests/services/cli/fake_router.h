#pragma once
// A router that obeys a script, on a loopback port: for tests of clients (the command-line tool,
// the load generator), which see real gRPC. Its model has a token per byte, so text and token ids
// are easy to foretell; context limit 64. Any answer can be replaced by a function, before the
// first call. Synchronous: a call occupies a thread.

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "conclave/v1/cluster.grpc.pb.h"
#include "conclave/v1/inference.grpc.pb.h"

namespace conclave::testing {

inline constexpr uint32_t kFakeContext = 64;
inline constexpr uint32_t kFakeLayers = 2;
inline constexpr uint32_t kFakeExperts = 8;
inline constexpr uint32_t kFakeTopK = 2;

// The n-th token after any prompt: 'a', 'b', ..., 'z', 'a', ...
inline uint32_t FakeToken(uint32_t index) { return 'a' + index % 26; }

// The log-probability of `token`, whatever came before.
inline float FakeLogprob(uint32_t token) { return -static_cast<float>(token) / 97.0F; }

class FakeRouter {
 public:
  using GenerateWriter = grpc::ServerWriter<v1::GenerateResponse>;
  using ScoreWriter = grpc::ServerWriter<v1::ScoreResponse>;
  using Generate = std::function<grpc::Status(grpc::ServerContext&, const v1::GenerateRequest&,
                                              GenerateWriter&)>;
  using Chat =
      std::function<grpc::Status(grpc::ServerContext&, const v1::ChatRequest&, GenerateWriter&)>;
  using Score =
      std::function<grpc::Status(grpc::ServerContext&, const v1::ScoreRequest&, ScoreWriter&)>;

  explicit FakeRouter(const std::string& listen = "127.0.0.1:0");
  ~FakeRouter();
  FakeRouter(const FakeRouter&) = delete;
  FakeRouter& operator=(const FakeRouter&) = delete;

  std::string address() const;  // HOST:PORT
  int calls() const;            // of Generate, Chat and Score, so far

  // max_tokens tokens, one a message, then finish_reason LENGTH.
  static grpc::Status GenerateAlphabet(grpc::ServerContext& context,
                                       const v1::GenerateRequest& request, GenerateWriter& writer);
  // Two positions a message; routing when asked for: token t, layer l, choice c goes to expert
  // (t + l + c) % kFakeExperts with weight 0.5 / (c + 1).
  static grpc::Status ScoreBytes(grpc::ServerContext& context, const v1::ScoreRequest& request,
                                 ScoreWriter& writer);
  // Sends one token and then nothing until the client is gone.
  static grpc::Status GenerateOneThenHang(grpc::ServerContext& context,
                                          const v1::GenerateRequest& request,
                                          GenerateWriter& writer);

  // Says the last message back, a byte a message, then finish_reason STOP.
  static grpc::Status ChatEcho(grpc::ServerContext& context, const v1::ChatRequest& request,
                               GenerateWriter& writer);

  Generate generate = GenerateAlphabet;
  Chat chat = ChatEcho;
  Score score = ScoreBytes;
  std::function<void(const v1::Prompt&)> on_tokenize = [](const v1::Prompt&) {};
  v1::StatusResponse status;
  // Of adapters: what there is, and how a change of them ends.
  v1::AdapterCatalogue catalogue;
  using Operate = std::function<grpc::Status(const v1::AddAdapterRequest* adds,
                                             const v1::RemoveAdapterRequest* removes,
                                             v1::AdapterOperation& response)>;
  Operate operate;
  v1::ResidencyResponse residency;

 private:
  class Inference;
  class Cluster;

  std::atomic<int> calls_{0};
  int port_ = 0;
  std::unique_ptr<Inference> inference_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace conclave::testing
