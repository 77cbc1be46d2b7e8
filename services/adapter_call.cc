#include "services/adapter_call.h"

#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "router/utf8.h"
#include "services/grpc_status.h"

namespace conclave::services {

absl::StatusOr<v1::AddAdapterRequest> ParseAdapter(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == text.npos || equals == 0 || equals + 1 == text.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("name an adapter and its directory, NAME=DIR, not \"%s\"", text));
  }
  std::error_code error;
  const std::string source =
      std::filesystem::absolute(text.substr(equals + 1), error).lexically_normal().string();
  if (error) return absl::InvalidArgumentError("cannot tell where this directory is");
  if (!router::IsUtf8(text) || !router::IsUtf8(source)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "\"%s\" is not UTF-8: rename it, or give a link to it", absl::CHexEscape(source)));
  }
  v1::AddAdapterRequest request;
  request.set_name(text.substr(0, equals));
  request.set_source(source);
  return request;
}

AddAdapterCall::AddAdapterCall(const std::shared_ptr<grpc::Channel>& channel,
                               v1::AddAdapterRequest request)
    : request_(std::move(request)), stub_(v1::Cluster::NewStub(channel)) {
  stub_->async()->AddAdapter(&context_, &request_, &response_, [this](const grpc::Status& status) {
    ended_.set_value(FromGrpc(status));
  });
}

AddAdapterCall::~AddAdapterCall() {
  if (!end_.valid()) return;
  context_.TryCancel();
  end_.wait();
}

bool AddAdapterCall::done() const {
  return !end_.valid() || end_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

absl::Status AddAdapterCall::status() { return end_.get(); }

}  // namespace conclave::services
