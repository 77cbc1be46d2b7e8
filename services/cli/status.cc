// conclave status and models: what a cluster consists of and what it serves.

#include "worker/status.h"

#include <grpcpp/grpcpp.h>

#include <string>

#include "absl/strings/str_format.h"
#include "services/cli/adapters.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/json.h"
#include "services/cli/policies.h"
#include "services/cli/terminal.h"

namespace conclave::services::cli {
namespace {

const char* NameOf(v1::WorkerState state) {
  switch (state) {
    case v1::WORKER_STATE_READY:
      return "ready";
    case v1::WORKER_STATE_DRAINING:
      return "draining";
    case v1::WORKER_STATE_SUSPECT:
      return "suspect";
    case v1::WORKER_STATE_DEAD:
      return "dead";
    case v1::WORKER_STATE_JOINING:
      return "joining";
    default:
      return "unknown";
  }
}

const char* NameOf(v1::RouterState state) {
  switch (state) {
    case v1::ROUTER_STATE_SERVING:
      return "serving";
    case v1::ROUTER_STATE_DRAINING:
      return "draining";
    case v1::ROUTER_STATE_DEAD:
      return "dead";
    default:
      return "unknown";
  }
}

Json ToJson(const v1::RouterStatus& router) {
  return {{"pid", router.pid()},
          {"address", router.address()},
          {"metrics_address", router.metrics_address()},
          {"live_requests", router.live_requests()},
          {"draining", router.draining()},
          {"state", NameOf(router.state())}};
}

Json ToJson(const v1::WorkerInfo& worker) {
  const v1::WorkerLoad& load = worker.load();
  return {{"id", worker.id()},
          {"incarnation", worker.incarnation()},
          {"pid", worker.pid()},
          {"address", worker.address()},
          {"metrics_address", worker.metrics_address()},
          {"state", NameOf(worker.state())},
          {"experts", worker.experts()},
          {"epoch", worker.has_epoch() ? Json(worker.epoch()) : Json(nullptr)},
          {"sequences", load.running() + load.waiting()},
          {"running", load.running()},
          {"waiting", load.waiting()},
          {"kv_blocks_used", load.kv_blocks_used()},
          {"kv_blocks", load.kv_blocks()},
          {"model", worker.model().name()},
          {"numerics", worker.model().numerics()},
          {"policies", NamesOf(worker.model().policies())}};
}

// A scheduler that is out of reach is null: serving goes on without it.
Json ToJson(const v1::StatusResponse& status) {
  Json routers = Json::array(), workers = Json::array();
  for (const v1::RouterStatus& router : status.routers()) routers.push_back(ToJson(router));
  for (const v1::WorkerInfo& worker : status.workers()) workers.push_back(ToJson(worker));
  // A scheduler that is asked itself names no router as the one.
  Json router = status.has_router() ? ToJson(status.router()) : Json(nullptr);
  Json json = {{"epoch", status.epoch()},       {"router", std::move(router)},
               {"routers", std::move(routers)}, {"scheduler", nullptr},
               {"workers", std::move(workers)}, {"adapters", AdaptersToJson(status.adapters())}};
  if (status.has_scheduler()) {
    json["scheduler"] = {{"pid", status.scheduler().pid()},
                         {"address", status.scheduler().address()},
                         {"metrics_address", status.scheduler().metrics_address()}};
  }
  return json;
}

std::string ToLine(const v1::RouterStatus& router) {
  return absl::StrFormat("router     %s  pid %d  %s, live requests %d\n", router.address(),
                         router.pid(), NameOf(router.state()), router.live_requests());
}

std::string ToLine(const v1::WorkerInfo& worker) {
  std::string line = absl::StrFormat("worker     %s  %s  pid %d  %s", worker.id(), worker.address(),
                                     worker.pid(), NameOf(worker.state()));
  if (worker.state() != v1::WORKER_STATE_DEAD) {
    const v1::WorkerLoad& load = worker.load();
    absl::StrAppendFormat(&line,
                          ", sequences %d + %d waiting, kv blocks %d/%d, %d experts of epoch %d%s",
                          load.running(), load.waiting(), load.kv_blocks_used(), load.kv_blocks(),
                          worker.experts(), worker.epoch(), Marks(worker.model().policies()));
  }
  return line + "\n";
}

// The router that was asked is the first.
std::string ToTable(const v1::StatusResponse& status) {
  std::string text = absl::StrFormat("epoch      %d\n", status.epoch());
  if (status.has_router()) text += ToLine(status.router());
  for (const v1::RouterStatus& router : status.routers()) {
    if (!status.has_router() || router.address() != status.router().address())
      text += ToLine(router);
  }
  if (status.has_scheduler()) {
    absl::StrAppendFormat(&text, "scheduler  %s  pid %d\n", status.scheduler().address(),
                          status.scheduler().pid());
  } else {
    text += "scheduler  out of reach\n";
  }
  for (const v1::WorkerInfo& worker : status.workers()) text += ToLine(worker);
  if (status.workers().empty()) text += "worker     none\n";
  for (const v1::Adapter& adapter : status.adapters()) text += AdapterLine(adapter);
  return text;
}

absl::Status ShowStatus(Client& client, bool json, Io& io) {
  v1::StatusResponse response;
  Client::Call call(client);
  const grpc::Status status = client.cluster().Status(call.context(), {}, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  if (json) {
    Print(ToJson(response), io);
  } else {
    io.out << Printable(ToTable(response));
  }
  return absl::OkStatus();
}

Json ToJson(const v1::Model& model) {
  return {{"name", model.name()},
          {"family", model.family()},
          {"context_limit", model.context_limit()},
          {"vocab_size", model.vocab_size()},
          {"numerics", model.numerics()},
          {"policies", NamesOf(model.policies())},
          {"parent", model.parent().empty() ? Json(nullptr) : Json(model.parent())},
          {"version", model.version().empty() ? Json(nullptr) : Json(model.version())},
          {"chat", model.chat()},
          {"chat_problem", model.chat() ? Json(nullptr) : Json(model.chat_problem())}};
}

absl::Status ShowModels(Client& client, bool json, Io& io) {
  v1::ListModelsResponse response;
  Client::Call call(client);
  const grpc::Status status = client.inference().ListModels(call.context(), {}, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  Json models = Json::array();
  for (const v1::Model& model : response.models()) {
    models.push_back(ToJson(model));
    if (json) continue;
    io.out << Printable(absl::StrFormat(
        "%s  %s, context %d, vocabulary %d, numerics %s%s%s%s\n", model.name(), model.family(),
        model.context_limit(), model.vocab_size(), model.numerics(), Marks(model.policies()),
        model.parent().empty() ? "" : ", adapter of " + model.parent() + " @" + model.version(),
        model.chat() ? ", chats" : ", does not chat: " + model.chat_problem()));
  }
  if (json) Print({{"models", std::move(models)}}, io);
  return absl::OkStatus();
}

// Both commands: one call without arguments.
int RunCall(const std::string& name, const std::string& summary,
            absl::Status (*call)(Client&, bool, Io&), const Arguments& arguments, Io& io) {
  Client::Options options = {.timeout = 30};
  Flags flags("conclave " + name, summary);
  Client::AddFlags(flags, options);
  if (const auto code = Parse(name, flags, arguments, io)) return *code;
  const auto client = Client::Make(options);
  if (!client.ok()) return UsageError(name, client.status(), io);
  return (*client)->Finish(name, call(**client, options.json, io), io);
}

}  // namespace

int RunStatus(const Arguments& arguments, Io& io) {
  return RunCall("status", "Processes, epoch and load of a cluster.", ShowStatus, arguments, io);
}

int RunModels(const Arguments& arguments, Io& io) {
  return RunCall("models", "The models that are served.", ShowModels, arguments, io);
}

}  // namespace conclave::services::cli
