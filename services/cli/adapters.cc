// conclave adapters: which adapters are served, and to change that while requests run.

#include "services/cli/adapters.h"

#include <grpcpp/grpcpp.h>

#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "services/adapter_call.h"
#include "services/cli/client.h"
#include "services/cli/command.h"
#include "services/cli/json.h"
#include "services/cli/terminal.h"
#include "worker/status.h"

namespace conclave::services::cli {
namespace {

constexpr char kName[] = "adapters";

const char* NameOf(v1::AdapterStage stage) {
  switch (stage) {
    case v1::ADAPTER_STAGE_CHECKING:
      return "checking";
    case v1::ADAPTER_STAGE_PLACING:
      return "placing";
    case v1::ADAPTER_STAGE_DRAINING:
      return "draining";
    case v1::ADAPTER_STAGE_DONE:
      return "done";
    case v1::ADAPTER_STAGE_FAILED:
      return "failed";
    default:
      return "unknown";
  }
}

const char* NameOf(v1::AdapterState state) {
  switch (state) {
    case v1::ADAPTER_STATE_ACTIVE:
      return "active";
    case v1::ADAPTER_STATE_DRAINING:
      return "draining";
    default:
      return "unknown";
  }
}

Json ToJson(const v1::AdapterOperation& operation) {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? Json(nullptr) : Json(text);
  };
  return {{"operation_id", operation.operation_id()},
          {"name", operation.name()},
          {"kind", operation.removes() ? "remove" : "add"},
          {"source", or_null(operation.source())},
          {"stage", NameOf(operation.stage())},
          {"digest", or_null(operation.digest())},
          {"replaced", or_null(operation.replaced())},
          {"bytes", operation.bytes()},
          {"bytes_freed", operation.bytes_freed()},
          {"error", or_null(operation.message())}};
}

Json ToJson(const v1::AdapterCatalogue& catalogue) {
  Json operations = Json::array();
  for (const v1::AdapterOperation& operation : catalogue.operations())
    operations.push_back(ToJson(operation));
  return {{"adapters", AdaptersToJson(catalogue.adapters())},
          {"operations", std::move(operations)}};
}

// Of operations those that are open: how the last ones ended is for --json.
std::string ToTable(const v1::AdapterCatalogue& catalogue) {
  std::string text;
  for (const v1::Adapter& adapter : catalogue.adapters()) text += AdapterLine(adapter);
  for (const v1::AdapterOperation& operation : catalogue.operations()) {
    if (operation.stage() == v1::ADAPTER_STAGE_DONE ||
        operation.stage() == v1::ADAPTER_STAGE_FAILED)
      continue;
    absl::StrAppendFormat(&text, "operation  %s  %s %s, %s\n", operation.operation_id(),
                          operation.removes() ? "remove" : "add", operation.name(),
                          NameOf(operation.stage()));
  }
  return text.empty() ? "adapter    none\n" : text;
}

std::string ToText(const v1::AdapterOperation& operation) {
  if (operation.removes()) {
    return absl::StrFormat("%s is removed, %d bytes are free\n", operation.name(),
                           operation.bytes_freed());
  }
  return absl::StrFormat(
      "%s is version %s, %d bytes%s\n", operation.name(), operation.digest(), operation.bytes(),
      operation.replaced().empty()
          ? ""
          : absl::StrFormat("; version %s serves what began with it", operation.replaced()));
}

absl::Status List(Client& client, bool json, Io& io) {
  v1::AdapterCatalogue response;
  Client::Call call(client);
  const grpc::Status status = client.cluster().ListAdapters(call.context(), {}, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  if (json) {
    Print(ToJson(response), io);
  } else {
    io.out << Printable(ToTable(response));
  }
  return absl::OkStatus();
}

template <typename Request>
absl::Status Change(Client& client, const Request& request,
                    grpc::Status (v1::Cluster::Stub::*method)(grpc::ClientContext*, const Request&,
                                                              v1::AdapterOperation*),
                    bool json, Io& io) {
  v1::AdapterOperation response;
  Client::Call call(client);
  const grpc::Status status = (client.cluster().*method)(call.context(), request, &response);
  CONCLAVE_RETURN_IF_ERROR(Client::StatusOf(status, *call.context()));
  if (json) {
    Print(ToJson(response), io);
  } else {
    io.out << Printable(ToText(response));
  }
  return absl::OkStatus();
}

// What the command line asks for, without the client's flags.
struct Request {
  std::string verb, what, operation;

  absl::Status Check() const {
    const bool lists = verb == "list";
    if (!lists && verb != "add" && verb != "remove")
      return absl::InvalidArgumentError("say list, add NAME=DIR, or remove NAME");
    if (lists && !what.empty()) return absl::InvalidArgumentError("list takes no adapter");
    if (verb == "remove" && what.empty()) return absl::InvalidArgumentError("name an adapter");
    return verb == "add" ? ParseAdapter(what).status() : absl::OkStatus();
  }

  absl::Status Run(Client& client, bool json, Io& io) const {
    if (verb == "list") return List(client, json, io);
    if (verb == "add") {
      CONCLAVE_ASSIGN_OR_RETURN(v1::AddAdapterRequest request, ParseAdapter(what));
      request.set_operation_id(operation);
      return Change(client, request, &v1::Cluster::Stub::AddAdapter, json, io);
    }
    v1::RemoveAdapterRequest request;
    request.set_name(what);
    request.set_operation_id(operation);
    return Change(client, request, &v1::Cluster::Stub::RemoveAdapter, json, io);
  }
};

}  // namespace

Json AdaptersToJson(const google::protobuf::RepeatedPtrField<v1::Adapter>& adapters) {
  Json json = Json::array();
  for (const v1::Adapter& adapter : adapters) {
    json.push_back({{"name", adapter.name()},
                    {"digest", adapter.digest()},
                    {"state", NameOf(adapter.state())},
                    {"source", adapter.source()},
                    {"experts", adapter.experts()},
                    {"bytes", adapter.bytes()},
                    {"residency", adapter.on_disk() ? "disk" : "memory"},
                    {"problem", adapter.problem()}});
  }
  return json;
}

std::string AdapterLine(const v1::Adapter& adapter) {
  const std::string problem = adapter.problem().empty() ? "" : ": " + adapter.problem();
  return absl::StrFormat("adapter    %s  %s, version %.12s, %d experts, %d bytes of %s, %s%s\n",
                         adapter.name(), NameOf(adapter.state()), adapter.digest(),
                         adapter.experts(), adapter.bytes(), adapter.source(),
                         adapter.on_disk() ? "on disk" : "in memory", problem);
}

int RunAdapters(const Arguments& arguments, Io& io) {
  Client::Options options = {.timeout = 300};
  std::vector<std::string> words;
  Request request;
  Flags flags("conclave adapters",
              "Which adapters are served; adds one, or replaces it, while requests run; removes "
              "one once the requests that use\nit have ended. Adding waits until it is served, "
              "removing until its memory is given back; both may be asked again.");
  flags.AddPositional(&words, 2, "list|add|remove [NAME=DIR|NAME]");
  flags.Add({"operation-id", &request.operation, "ID",
             "of add or remove: asked again with the same, what was begun is what is answered"});
  Client::AddFlags(flags, options);
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  words.resize(2);
  request.verb = words[0];
  request.what = words[1];
  if (const absl::Status status = request.Check(); !status.ok())
    return UsageError(kName, status, io);
  const auto client = Client::Make(options);
  if (!client.ok()) return UsageError(kName, client.status(), io);
  return (*client)->Finish(kName, request.Run(**client, options.json, io), io);
}

}  // namespace conclave::services::cli
