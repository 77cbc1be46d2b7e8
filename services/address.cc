#include "services/address.h"

#include <arpa/inet.h>

#include <charconv>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"

namespace conclave::services {
namespace {

constexpr size_t kMaxHostBytes = 253;  // of a DNS name

absl::Status NotAnAddress(const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrFormat("\"%s\" is not an address: want HOST:PORT", text));
}

bool ParsePort(const std::string& text, int& port) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, port);
  return error == std::errc() && stop == end && port >= 0 && port <= 65535;
}

}  // namespace

absl::StatusOr<Address> Address::Parse(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon > kMaxHostBytes) return NotAnAddress(text);
  Address address{.host = text.substr(0, colon)};
  if (!ParsePort(text.substr(colon + 1), address.port)) return NotAnAddress(text);
  const bool brackets =
      address.host.size() > 2 && address.host.front() == '[' && address.host.back() == ']';
  if (brackets) address.host = address.host.substr(1, address.host.size() - 2);
  in6_addr v6;
  const bool is_v6 = inet_pton(AF_INET6, address.host.c_str(), &v6) == 1;
  if (brackets != is_v6) return NotAnAddress(text);
  if (!is_v6 && address.host.find_first_of(":[]/ \t\n") != std::string::npos)
    return NotAnAddress(text);
  return address;
}

std::string Address::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return v6 ? absl::StrFormat("[%s]:%d", host, port) : absl::StrFormat("%s:%d", host, port);
}

bool Address::loopback() const {
  if (host == "localhost") return true;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

bool Address::wildcard() const {
  if (host.empty()) return true;
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return v4.s_addr == INADDR_ANY;
  in6_addr v6;
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

Address Address::As(const std::string& advertised_host) const {
  return {.host = wildcard() ? advertised_host : host, .port = port};
}

}  // namespace conclave::services
