#include "worker/model/directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "worker/model/json.h"
#include "worker/sha256.h"
#include "worker/status.h"

namespace conclave::worker {
namespace {

// Without waiting for the other end of what turns out to be a pipe.
constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

int OpenBeneath(int directory, const char* name) {
  struct open_how how = {};
  how.flags = kFlags;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  const long fd = syscall(SYS_openat2, directory, name, &how, sizeof(how));
  if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) return static_cast<int>(fd);
  // A kernel before 5.6, or a sandbox that does not know the call: no links at all.
  return openat(directory, name, kFlags | O_NOFOLLOW);
}

absl::Status OpenError(const std::string& path, int error) {
  const auto text = [&](const char* what) { return absl::StrFormat("%s: %s", path, what); };
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(text(std::strerror(error)));
    case EXDEV:
      return absl::InvalidArgumentError(text("is a link that leads out of the directory"));
    case ELOOP:
      return absl::InvalidArgumentError(text("is a link that cannot be followed"));
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::ResourceExhaustedError(text(std::strerror(error)));
    default:
      return absl::InvalidArgumentError(text(std::strerror(error)));
  }
}

}  // namespace

DirectoryFile::DirectoryFile(std::string path, std::string name, int fd, const struct stat& opened)
    : path_(std::move(path)), name_(std::move(name)), fd_(fd), opened_(opened) {}

DirectoryFile::~DirectoryFile() { close(fd_); }

absl::Status DirectoryFile::ReadAt(uint64_t offset, size_t count, char* out) const {
  while (count > 0) {
    const ssize_t n = pread(fd_, out, count, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::DataLossError(absl::StrFormat("%s: %s", path_, std::strerror(errno)));
    if (n == 0) {
      return absl::DataLossError(
          absl::StrFormat("%s: has %d bytes, it had %d when it was opened", path_, offset, size()));
    }
    offset += static_cast<uint64_t>(n);
    out += n;
    count -= static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> DirectoryFile::ReadAll(size_t bytes_limit) const {
  if (size() > bytes_limit) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: has %d bytes, the limit is %d", path_, size(), bytes_limit));
  }
  std::string bytes(size(), '\0');
  CONCLAVE_RETURN_IF_ERROR(ReadAt(0, bytes.size(), bytes.data()));
  return bytes;
}

absl::Status DirectoryFile::CheckUnchanged() const {
  struct stat now;
  if (fstat(fd_, &now) != 0)
    return absl::DataLossError(absl::StrFormat("%s: %s", path_, std::strerror(errno)));
  if (now.st_size == opened_.st_size && now.st_mtim.tv_sec == opened_.st_mtim.tv_sec &&
      now.st_mtim.tv_nsec == opened_.st_mtim.tv_nsec) {
    return absl::OkStatus();
  }
  return absl::DataLossError(
      absl::StrFormat("%s: was written to while it was read; put a new directory in its place "
                      "by renaming it",
                      path_));
}

absl::StatusOr<std::string> DirectoryFile::Sha256() const {
  worker::Sha256 hash;
  std::string piece(size_t{1} << 20, '\0');
  for (uint64_t at = 0; at < size(); at += piece.size()) {
    piece.resize(std::min<uint64_t>(piece.size(), size() - at));
    CONCLAVE_RETURN_IF_ERROR(ReadAt(at, piece.size(), piece.data()));
    hash.Add(piece);
  }
  return hash.Finish();
}

absl::StatusOr<std::unique_ptr<const Directory>> Directory::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  if (fd < 0) return OpenError(path, errno);
  return std::unique_ptr<const Directory>(new Directory(path, fd));
}

Directory::~Directory() { close(fd_); }

absl::StatusOr<std::vector<std::string>> Directory::List(size_t limit) const {
  const int copy = openat(fd_, ".", O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  if (copy < 0) return OpenError(path_, errno);
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(copy), &closedir);
  if (stream == nullptr) {
    close(copy);
    return OpenError(path_, errno);
  }
  std::vector<std::string> names;
  while (const struct dirent* entry = readdir(stream.get())) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (names.size() == limit) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: has more than %d files", path_, limit));
    }
    names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::shared_ptr<const DirectoryFile>> Directory::OpenFile(
    const std::string& name) const {
  const std::string path = path_ + "/" + Printable(name);
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
      name.find('\0') != name.npos) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: is no plain file name", path));
  }
  const int fd = OpenBeneath(fd_, name.c_str());
  if (fd < 0) {
    const int error = errno;
    struct stat link;
    const bool leads_nowhere =
        error == ENOENT && fstatat(fd_, name.c_str(), &link, AT_SYMLINK_NOFOLLOW) == 0;
    return OpenError(path, leads_nowhere ? ELOOP : error);
  }
  struct stat info;
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  if (!regular) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrFormat("%s: is not a regular file", path));
  }
  return std::shared_ptr<const DirectoryFile>(new DirectoryFile(path, name, fd, info));
}

}  // namespace conclave::worker
