#pragma once
// How much of the output that requests may have they do have, in the mean. Clients ask for
// max_tokens that are a bound and not a wish: by them alone, who asks for much and stops early
// would be charged many times what he is served. Learned from ends, exponentially weighted; before
// the first, all of it. Pure.

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace conclave::router {

class OutputEstimate {
 public:
  // A request that might have had `most` tokens ended with so many.
  void Learn(int64_t tokens, int64_t most) {
    if (most <= 0) return;
    const double share = static_cast<double>(tokens) / static_cast<double>(most);
    share_ += kWeight * (std::clamp(share, 0.0, 1.0) - share_);
  }
  // Of one that may have `most`, at least one if any.
  int64_t Of(int64_t most) const {
    return static_cast<int64_t>(std::ceil(share_ * static_cast<double>(most)));
  }

 private:
  static constexpr double kWeight = 1.0 / 16;  // of the newest end
  double share_ = 1;
};

}  // namespace conclave::router
