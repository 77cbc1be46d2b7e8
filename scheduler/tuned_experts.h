#pragma once
// Which experts of a layer are worth tuning for a task, by what its tokens were seen to choose
// (ESFT, arXiv:2407.01906, section 3.3). Pure; any thread.

#include <cstdint>
#include <span>
#include <vector>

namespace conclave::scheduler {

// `totals` has for each slot what the task's tokens gave it, finite and not negative: how many
// chose it ("token score"), or the sum of the gate's weights ("gate score"). Returns the slots of
// highest share of their sum, in descending order, as many as it takes for their shares to reach
// top_p, which is above 0 and at most 1; never one that was given nothing.
//
// Shares are compared and added with four decimals, ties going to the lower slot, as the authors
// published theirs: that and nothing else chooses what their configurations hold.
std::vector<int32_t> ChooseTunedExperts(std::span<const double> totals, double top_p);

}  // namespace conclave::scheduler
