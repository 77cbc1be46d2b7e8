#include "services/cli/policies.h"

#include <algorithm>

#include "conclave/v1/inference.pb.h"

namespace conclave::services::cli {
namespace {

// One of a later version is told by its number.
std::string NameOf(int policy) {
  return policy == v1::POLICY_PARTIAL_SUMS ? "partial_sums" : std::to_string(policy);
}

}  // namespace

Json NamesOf(const google::protobuf::RepeatedField<int>& policies) {
  Json names = Json::array();
  for (const int policy : policies) names.push_back(NameOf(policy));
  return names;
}

std::string Marks(const google::protobuf::RepeatedField<int>& policies) {
  std::string marks;
  for (const int policy : policies) marks += ", " + NameOf(policy);
  return marks;
}

std::string Remark(const google::protobuf::RepeatedField<int>& policies) {
  if (policies.empty()) return "";
  const bool sums =
      std::find(policies.begin(), policies.end(), v1::POLICY_PARTIAL_SUMS) != policies.end();
  return Marks(policies).substr(2) +
         (sums ? " (results depend on the placement of experts too)" : "");
}

}  // namespace conclave::services::cli
