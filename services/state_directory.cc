#include "services/state_directory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_format.h"
#include "worker/status.h"

namespace conclave::services {

absl::StatusOr<std::unique_ptr<StateDirectory>> StateDirectory::Open(const std::string& path) {
  auto state = std::unique_ptr<StateDirectory>(new StateDirectory);
  CONCLAVE_RETURN_IF_ERROR(path.empty() ? state->MakeTemporary() : state->Make(path));
  CONCLAVE_RETURN_IF_ERROR(state->Lock());
  return state;
}

StateDirectory::~StateDirectory() {
  if (lock_ >= 0) close(lock_);
  std::error_code ignored;
  if (temporary_) std::filesystem::remove_all(path_, ignored);
}

absl::Status StateDirectory::MakeTemporary() {
  std::string path = std::filesystem::temp_directory_path().string() + "/conclave-up-XXXXXX";
  if (mkdtemp(path.data()) == nullptr) {
    return absl::UnavailableError(
        absl::StrFormat("cannot make a temporary directory: %s", std::strerror(errno)));
  }
  path_ = path;
  temporary_ = true;
  return absl::OkStatus();
}

absl::Status StateDirectory::Make(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) {
    return absl::UnavailableError(
        absl::StrFormat("--state: cannot make \"%s\": %s", path, error.message()));
  }
  path_ = path;
  return absl::OkStatus();
}

// The lock goes with the process, however it ends; the file stays.
absl::Status StateDirectory::Lock() {
  const std::string file = path_ + "/up.lock";
  lock_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0) {
    return absl::UnavailableError(
        absl::StrFormat("cannot open \"%s\": %s", file, std::strerror(errno)));
  }
  if (flock(lock_, LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrFormat(
      "state directory \"%s\" is in use by another `conclave up`: stop it, or choose another "
      "--state",
      path_));
}

}  // namespace conclave::services
