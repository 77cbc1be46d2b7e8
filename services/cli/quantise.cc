// conclave quantise: a checkpoint written anew with its experts packed.

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "services/cli/command.h"
#include "services/cli/terminal.h"
#include "worker/device/packed.h"
#include "worker/model/pack_checkpoint.h"

namespace conclave::services::cli {
namespace {

constexpr char kName[] = "quantise";

// Tells how far it is, each percent once.
class Progress {
 public:
  explicit Progress(Io& io) : io_(io) {}
  void Show(uint64_t done, uint64_t total) {
    const int percent = total == 0 ? 100 : static_cast<int>(done * 100 / total);
    if (percent == shown_) return;
    shown_ = percent;
    io_.err << absl::StrFormat("%3d %% of %.1f GB\n", percent, static_cast<double>(total) / 1e9)
            << std::flush;
  }

 private:
  Io& io_;
  int shown_ = -1;
};

}  // namespace

int RunQuantise(const Arguments& arguments, Io& io) {
  std::vector<std::string> directories;
  std::string form = "mxint8";
  int threads = 0;
  Flags flags("conclave quantise",
              "Writes checkpoint DIR anew as OUT, with experts in 8 or 4 bits and all else as it "
              "is: what a worker's --weights makes of them whenever it reads them, made once. "
              "Results are the same.");
  flags.AddPositional(&directories, 2, "DIR OUT");
  flags.Add({"experts", &form, "FORM", "mxint8, or mxfp4 in 4 bits"});
  flags.Add({"threads", &threads, "N", "that compute; 0: one per CPU", 0, 1024});
  if (const auto code = Parse(kName, flags, arguments, io)) return *code;
  if (directories.size() != 2) {
    return UsageError(
        kName, absl::InvalidArgumentError("name a checkpoint's directory and one to write"), io);
  }
  const std::optional<worker::DType> packed = worker::PackedTypeOf(form);
  if (!packed) {
    return UsageError(kName,
                      absl::InvalidArgumentError(absl::StrFormat(
                          "--experts: there are mxint8 and mxfp4, not \"%s\"", form)),
                      io);
  }
  if (threads == 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  Progress progress(io);
  const worker::PackOptions options = {
      .experts_as = *packed, .threads = threads, .progress = [&](uint64_t done, uint64_t total) {
        progress.Show(done, total);
      }};
  return Finish(kName, worker::PackCheckpoint(directories[0], directories[1], options), io);
}

}  // namespace conclave::services::cli
