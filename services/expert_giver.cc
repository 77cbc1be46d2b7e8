#include "services/expert_giver.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "services/grpc_status.h"
#include "services/log.h"
#include "worker/status.h"

namespace conclave::services {
namespace {

using worker::ExpertStore;

constexpr char kFetchExpert[] = "/conclave.v1.Worker/FetchExpert";

class Refused : public grpc::ServerWriteReactor<v1::ExpertChunk> {
 public:
  explicit Refused(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

// One expert on its way. One message is written at a time: begun by the pool's thread, then by
// gRPC's reactions. A call that was cancelled shows as a write that fails.
class ExpertGiver::Giving : public grpc::ServerWriteReactor<v1::ExpertChunk> {
 public:
  Giving(ExpertGiver& giver, scheduler::ExpertId expert) : giver_(giver), expert_(expert) {}

  // The pool's thread.
  void Begin() {
    auto loan = giver_.engine_.expert_store().Lend(expert_);
    if (!loan.ok()) {
      ++giver_.refused_;
      return Finish(ToGrpc(loan.status()));
    }
    loan_ = *std::move(loan);
    chunk_.mutable_header()->set_bytes(loan_->bytes().size());
    chunk_.mutable_header()->set_sha256(loan_->Sha256());
    WriteNext();
  }

 private:
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::CANCELLED, "the asker is gone"));
    giver_.bytes_ += chunk_.data().size();
    chunk_.Clear();
    if (sent_ < loan_->bytes().size()) return WriteNext();
    ++giver_.given_;
    Finish(grpc::Status::OK);
  }

  void OnDone() override {
    ExpertGiver& giver = giver_;
    delete this;  // and return the loan
    giver.LeavePlace();
  }

  void WriteNext() {
    if (const absl::Status broken = giver_.failpoints_.Hit("expert.chunk"); !broken.ok())
      return Finish(ToGrpc(broken));
    const auto count = static_cast<size_t>(
        std::min<uint64_t>(giver_.options_.chunk_bytes, loan_->bytes().size() - sent_));
    std::string& data = *chunk_.mutable_data();
    data.resize(count);
    loan_->bytes().Read(sent_, count, data.data());
    if (!giver_.failpoints_.Hit("expert.spoil").ok()) data.back() ^= 1;
    sent_ += count;
    StartWrite(&chunk_);
  }

  ExpertGiver& giver_;
  const scheduler::ExpertId expert_;
  std::unique_ptr<ExpertStore::Loan> loan_;
  v1::ExpertChunk chunk_;
  uint64_t sent_ = 0;
};

ExpertGiver::ExpertGiver(const Options& options, worker::Engine& engine, Authorize authorize,
                         const Failpoints& failpoints)
    : options_(options),
      engine_(engine),
      authorize_(std::move(authorize)),
      failpoints_(failpoints),
      pool_(1, static_cast<size_t>(options.max_fetches)) {}

ExpertGiver::~ExpertGiver() {
  std::unique_lock lock(mutex_);
  left_.wait(lock, [this] { return fetches_ == 0; });
}

absl::Status ExpertGiver::Check(const grpc::CallbackServerContext& context,
                                const v1::FetchExpertRequest& request) const {
  CONCLAVE_RETURN_IF_ERROR(authorize_(kFetchExpert, PeerOf(context)).status());
  if (context.deadline() - std::chrono::system_clock::now() > options_.longest) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "FetchExpert: give it a deadline of %d ms or less", options_.longest.count()));
  }
  const std::string& model = engine_.model().digest;
  if (request.model() != model) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the model here is %s, asked was for one of %s", model, request.model().substr(0, 64)));
  }
  return absl::OkStatus();
}

absl::Status ExpertGiver::TakePlace() {
  const std::lock_guard lock(mutex_);
  if (fetches_ >= options_.max_fetches) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d experts are being given, the limit", fetches_));
  }
  ++fetches_;
  return absl::OkStatus();
}

void ExpertGiver::LeavePlace() {
  const std::lock_guard lock(mutex_);
  --fetches_;
  left_.notify_all();
}

grpc::ServerWriteReactor<v1::ExpertChunk>* ExpertGiver::Give(
    grpc::CallbackServerContext* context, const v1::FetchExpertRequest* request) {
  const auto refuse = [this](const absl::Status& status) {
    ++refused_;
    return new Refused(status);
  };
  if (const absl::Status bad = Check(*context, *request); !bad.ok()) return refuse(bad);
  if (const absl::Status full = TakePlace(); !full.ok()) return refuse(full);
  auto* const giving = new Giving(*this, request->expert());
  // There is room: the queue holds as many as there are places.
  pool_.Post([giving] { giving->Begin(); });
  return giving;
}

}  // namespace conclave::services
