#pragma once
// The directory of a cluster's durable state, which one supervisor at a time may use. One thread.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::services {

class StateDirectory {
 public:
  // Made if it is not there; an empty path: a temporary one, which goes with the object.
  // FAILED_PRECONDITION: in use by another. UNAVAILABLE: cannot be made.
  static absl::StatusOr<std::unique_ptr<StateDirectory>> Open(const std::string& path);
  ~StateDirectory();
  StateDirectory(const StateDirectory&) = delete;
  StateDirectory& operator=(const StateDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  StateDirectory() = default;
  absl::Status MakeTemporary();
  absl::Status Make(const std::string& path);
  absl::Status Lock();

  std::string path_;
  bool temporary_ = false;
  int lock_ = -1;
};

}  // namespace conclave::services
