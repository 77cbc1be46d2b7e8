#include "services/inference_service.h"

#include <grpc/grpc.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/completions.h"
#include "services/convert_inference.h"
#include "services/grpc_status.h"
#include "services/pushback.h"

namespace conclave::services {
namespace {

using scheduler::Micros;

grpc::Status Close(grpc::CallbackServerContext& context, const absl::Status& status) {
  if (const auto pushback = PushbackOf(status)) SetRetryPushback(context, *pushback);
  return ToGrpc(status);
}

std::optional<Micros> DeadlineOf(const grpc::CallbackServerContext& context) {
  using Clock = std::chrono::system_clock;
  if (context.deadline() == Clock::time_point::max()) return std::nullopt;
  return Now() + std::chrono::duration_cast<Micros>(context.deadline() - Clock::now());
}

// What the first message says of the adapter.
template <typename Message>
void SetAdapter(const router::Request& request, Message& message) {
  message.set_adapter(request.version.ToString());
  if (request.choice) *message.mutable_auto_choice() = ToProto(*request.choice);
}

grpc::ByteBuffer GenerateMessage(const Completions::Part& part) {
  v1::GenerateResponse message = ToGenerateResponse(part.output.delta);
  message.set_index(part.index);
  if (part.output.first) {
    const router::Request& request = part.completion.request();
    message.set_request_id(request.id);
    message.set_seed(*request.seed);
    SetAdapter(request, message);
    *message.mutable_policies() = part.completion.policies();
  }
  return SerializeMessage(message);
}

grpc::ByteBuffer ScoreMessage(const Completions::Part& part) {
  v1::ScoreResponse message = ToScoreResponse(part.output.delta);
  if (part.output.first) {
    const auto& prompt = part.completion.prompt();
    message.set_request_id(part.completion.request().id);
    SetAdapter(part.completion.request(), message);
    message.mutable_token_ids()->Assign(prompt.begin(), prompt.end());
    *message.mutable_policies() = part.completion.policies();
  }
  return SerializeMessage(message);
}

// One client's stream. Lives until gRPC is done with the call and the request is done with its
// reader.
class StreamReactor : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                      public LiveRequest::Reader,
                      public std::enable_shared_from_this<StreamReactor> {
 public:
  using ToMessage = grpc::ByteBuffer (*)(const Completions::Part&);

  StreamReactor(Frontend& frontend, Farewell& farewell, grpc::CallbackServerContext* context,
                ToMessage to_message)
      : frontend_(frontend), farewell_(farewell), context_(context), to_message_(to_message) {}

  void Start(absl::StatusOr<router::Request> request) {
    self_ = shared_from_this();
    absl::StatusOr<LiveRequests> live =
        request.ok()
            ? frontend_.Start(*std::move(request), DeadlineOf(*context_), shared_from_this())
            : request.status();
    if (!live.ok()) {
      farewell_.Tell([self = shared_from_this(), status = live.status()] {
        std::lock_guard lock(self->mutex_);
        self->End(status);
      });
      return;
    }
    {
      std::lock_guard lock(mutex_);
      completions_ = std::make_shared<Completions>(*std::move(live));
    }
    OnOutput();
  }

  // One thread at a time asks for output, and holds no lock meanwhile: that may start others'
  // requests, whose readers hear of it on this thread.
  void OnOutput() override {
    std::unique_lock lock(mutex_);
    ask_again_ = true;
    if (asking_) return;
    while (ask_again_ && !writing_ && !ended_ && completions_ != nullptr) {
      ask_again_ = false;
      asking_ = true;
      const std::shared_ptr<Completions> completions = completions_;
      lock.unlock();
      const std::optional<Completions::Part> part = completions->Take();
      if (part && part->output.last) frontend_.ReleaseId(completions->all());
      lock.lock();
      asking_ = false;
      if (part) Write(*part);
    }
  }

  void OnStalled(const absl::Status& status) override {
    std::lock_guard lock(mutex_);
    if (done_) return;
    // Ends the call past the message that nobody takes. gRPC's C++ knows no status here but
    // CANCELLED, its core does.
    grpc_call_cancel_with_status(context_->c_call(), static_cast<grpc_status_code>(status.code()),
                                 std::string(status.message()).c_str(), nullptr);
  }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard lock(mutex_);
      writing_ = false;
      message_.Clear();
      if (!ok) End(absl::CancelledError("the client is gone"));
    }
    OnOutput();
  }

  void OnCancel() override {
    std::shared_ptr<Completions> completions;
    {
      std::lock_guard lock(mutex_);
      completions = completions_;
    }
    if (completions != nullptr) completions->Cancel();
  }

  void OnDone() override {
    std::shared_ptr<Completions> completions;
    std::shared_ptr<StreamReactor> self;
    {
      std::lock_guard lock(mutex_);
      done_ = true;
      completions.swap(completions_);
      self.swap(self_);
    }
    if (completions == nullptr) return;
    for (const auto& completion : completions->all()) frontend_.Forget(*completion);
  }

 private:
  // mutex_ held in both.
  void Write(const Completions::Part& part) {
    if (ended_) return;
    const LiveRequest::Output& output = part.output;
    const bool empty = output.delta.empty();
    if (!empty) message_ = to_message_(part);
    if (!output.last && empty) {
      ask_again_ = true;
    } else if (!output.last) {
      writing_ = true;
      StartWrite(&message_);
    } else if (empty) {
      End(output.status);
    } else {
      ended_ = true;
      StartWriteAndFinish(&message_, grpc::WriteOptions(), Close(*context_, output.status));
    }
  }
  void End(const absl::Status& status) {
    if (std::exchange(ended_, true)) return;
    Finish(Close(*context_, status));
  }

  Frontend& frontend_;
  Farewell& farewell_;
  grpc::CallbackServerContext* const context_;  // until done_
  const ToMessage to_message_;

  std::mutex mutex_;
  std::shared_ptr<StreamReactor> self_;  // gRPC's share
  std::shared_ptr<Completions> completions_;
  bool asking_ = false;       // a thread is
  bool ask_again_ = false;    // there may be more than it found
  grpc::ByteBuffer message_;  // on its way while writing_
  bool writing_ = false;
  bool ended_ = false;  // Finish was called
  bool done_ = false;
};

// A call that has its answer at once, or never had a chance.
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(Close(*context, status));
  return reactor;
}

template <typename Message>
absl::StatusOr<router::Request> ReadRequest(const absl::StatusOr<std::string>& tenant,
                                            const grpc::ByteBuffer& bytes) {
  if (!tenant.ok()) return tenant.status();
  absl::StatusOr<Message> message = ParseMessage<Message>(bytes);
  if (!message.ok()) return message.status();
  router::Request request = ToRequest(*std::move(message));
  request.tenant = *tenant;
  return request;
}

absl::StatusOr<router::Request> ReadChat(const absl::StatusOr<std::string>& tenant,
                                         const grpc::ByteBuffer& bytes,
                                         const router::chat::ConversationLimits& limits) {
  if (!tenant.ok()) return tenant.status();
  absl::StatusOr<v1::ChatRequest> message = ParseChat(bytes, limits);
  if (!message.ok()) return message.status();
  absl::StatusOr<router::Request> request = ToRequest(*std::move(message), limits);
  if (request.ok()) request->tenant = *tenant;
  return request;
}

}  // namespace

InferenceService::InferenceService(Frontend& frontend, Authorize authorize)
    : frontend_(frontend), authorize_(std::move(authorize)) {}

absl::StatusOr<std::string> InferenceService::Allow(grpc::CallbackServerContext* context,
                                                    const char* method) const {
  return authorize_(absl::StrFormat("/%s/%s", v1::Inference::service_full_name(), method),
                    PeerOf(*context));
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  const auto reactor =
      std::make_shared<StreamReactor>(frontend_, farewell_, context, GenerateMessage);
  reactor->Start(ReadRequest<v1::GenerateRequest>(Allow(context, "Generate"), *request));
  return reactor.get();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Chat(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  const auto reactor =
      std::make_shared<StreamReactor>(frontend_, farewell_, context, GenerateMessage);
  reactor->Start(ReadChat(Allow(context, "Chat"), *request, frontend_.limits().chat));
  return reactor.get();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Score(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  const auto reactor = std::make_shared<StreamReactor>(frontend_, farewell_, context, ScoreMessage);
  reactor->Start(ReadRequest<v1::ScoreRequest>(Allow(context, "Score"), *request));
  return reactor.get();
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  if (const auto tenant = Allow(context, "Tokenize"); !tenant.ok())
    return Answer(context, tenant.status());
  auto message = ParseMessage<v1::TokenizeRequest>(*request);
  if (!message.ok()) return Answer(context, message.status());
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  frontend_.Tokenize(ToPrompt(std::move(*message->mutable_prompt())),
                     [=, this](const Frontend::Tokens& tokens) {
                       if (!tokens.ok()) return reactor->Finish(Close(*context, tokens.status()));
                       v1::TokenizeResponse answer;
                       answer.mutable_token_ids()->Assign(tokens->begin(), tokens->end());
                       for (const auto token : *tokens)
                         answer.add_tokens(std::string(frontend_.TokenBytes(token)));
                       *response = SerializeMessage(answer);
                       reactor->Finish(grpc::Status::OK);
                     });
  return reactor;
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  if (const auto tenant = Allow(context, "Detokenize"); !tenant.ok())
    return Answer(context, tenant.status());
  const auto message = ParseMessage<v1::DetokenizeRequest>(*request);
  if (!message.ok()) return Answer(context, message.status());
  absl::StatusOr<std::string> text = frontend_.Detokenize(
      {message->token_ids().begin(), message->token_ids().end()}, message->skip_special());
  if (!text.ok()) return Answer(context, text.status());
  v1::DetokenizeResponse answer;
  answer.set_text(*std::move(text));
  *response = SerializeMessage(answer);
  return Answer(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* InferenceService::ListModels(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  if (const auto tenant = Allow(context, "ListModels"); !tenant.ok())
    return Answer(context, tenant.status());
  if (const auto message = ParseMessage<v1::ListModelsRequest>(*request); !message.ok()) {
    return Answer(context, message.status());
  }
  v1::ListModelsResponse answer;
  for (const v1::Model& model : frontend_.Models()) *answer.add_models() = model;
  *response = SerializeMessage(answer);
  return Answer(context, absl::OkStatus());
}

}  // namespace conclave::services
