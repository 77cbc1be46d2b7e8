#pragma once
// The two macros that pass an absl::Status on.

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define CONCLAVE_RETURN_IF_ERROR(expression)                                \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define CONCLAVE_CONCAT_(a, b) a##b
#define CONCLAVE_CONCAT(a, b) CONCLAVE_CONCAT_(a, b)
#define CONCLAVE_ASSIGN_OR_RETURN(lhs, expression) \
  CONCLAVE_ASSIGN_OR_RETURN_(CONCLAVE_CONCAT(statusor_, __LINE__), lhs, expression)
#define CONCLAVE_ASSIGN_OR_RETURN_(tmp, lhs, expression) \
  auto tmp = (expression);                               \
  if (!tmp.ok()) return tmp.status();                    \
  lhs = std::move(tmp).value()
