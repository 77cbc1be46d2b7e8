#include "worker/experts/pieces.h"

#include <algorithm>
#include <numeric>

#include "scheduler/check.h"
#include "worker/experts/partial_sum.h"

namespace conclave::worker {

Pieces::Pieces(const FrameLimits& limits) : limits_(limits), every_route_(limits.routes) {
  std::iota(every_route_.begin(), every_route_.end(), 0);
  state_.reserve(limits.routes * (limits.returns == Returns::kSums ? 2 : 1));
}

void Pieces::Begin(const scheduler::Placement* placement,
                   std::span<const scheduler::ExpertId> experts, int32_t top_k) {
  CONCLAVE_CHECK(experts.size() <= limits_.routes);
  routes_ = static_cast<int32_t>(experts.size());
  top_k_ = top_k;
  first_ = 0;
  state_.assign(experts.size(), {});
  if (limits_.returns == Returns::kRows) return;
  first_ = routes_;
  AddParts(placement, experts);
  state_.resize(experts.size() + begin_.size() - 1);
}

void Pieces::AddParts(const scheduler::Placement* placement,
                      std::span<const scheduler::ExpertId> experts) {
  if (placement != nullptr && (!rule_ || workers_ != placement->workers.size())) {
    workers_ = placement->workers.size();
    rule_.emplace(workers_);
  }
  names_.assign(static_cast<size_t>(top_k_), 0);
  order_.clear();
  begin_.assign(1, 0);
  part_of_.resize(experts.size());
  for (int32_t route = 0; route < routes_; route += top_k_) {
    if (placement != nullptr) {
      rule_->Group(*placement, experts.subspan(Index(route), names_.size()), names_);
    }
    // Parts by name, routes within in the gate's order.
    const auto begin = order_.insert(order_.end(), every_route_.begin() + route,
                                     every_route_.begin() + route + top_k_);
    const auto name = [&](int32_t r) { return names_[Index(r - route)]; };
    std::stable_sort(begin, order_.end(), [&](int32_t a, int32_t b) { return name(a) < name(b); });
    for (size_t i = Index(route); i < order_.size(); ++i) {
      if (i > Index(route) && name(order_[i]) != name(order_[i - 1])) {
        begin_.push_back(static_cast<int32_t>(i));
      }
      part_of_[Index(order_[i])] = routes_ + static_cast<int32_t>(begin_.size()) - 1;
    }
    begin_.push_back(static_cast<int32_t>(order_.size()));
  }
}

std::span<const int32_t> Pieces::RoutesOf(int32_t piece) const {
  if (piece < routes_) return std::span(every_route_).subspan(Index(piece), 1);
  const size_t part = Index(piece - routes_);
  return std::span(order_).subspan(Index(begin_[part]), Index(begin_[part + 1] - begin_[part]));
}

int32_t Pieces::WholeOf(int32_t piece) const {
  const bool part = piece >= routes_ || limits_.returns == Returns::kRows;
  return part ? piece : part_of_[Index(piece)];
}

bool Pieces::Needed(int32_t piece) const {
  if (came(piece) || came(WholeOf(piece))) return false;
  if (piece < routes_) return true;
  const std::span<const int32_t> routes = RoutesOf(piece);
  return !std::all_of(routes.begin(), routes.end(), [this](int32_t route) { return came(route); });
}

size_t Pieces::NoteCome(int32_t piece) {
  CONCLAVE_CHECK(Needed(piece));
  state_[Index(piece)].came = true;
  if (piece < routes_) return 1;
  const std::span<const int32_t> routes = RoutesOf(piece);
  return static_cast<size_t>(
      std::count_if(routes.begin(), routes.end(), [this](int32_t route) { return !came(route); }));
}

void Pieces::SumPart(int32_t part, std::span<const float> weights, Rows rows) {
  if (came(part)) return;
  terms_.clear();
  factors_.clear();
  for (const int32_t route : RoutesOf(part)) {
    terms_.push_back(rows.row(route));
    factors_.push_back(weights[Index(route)]);
  }
  PartialSum(terms_, factors_, limits_.dim, limits_.type, rows.row(RoutesOf(part)[0]));
}

void Pieces::Sum(std::span<const float> weights, Rows rows) {
  CONCLAVE_CHECK(limits_.returns == Returns::kSums);
  const auto row_of = [this](int32_t part) { return RoutesOf(part)[0] / top_k_; };
  for (int32_t part = first_; part < end(); ++part) SumPart(part, weights, rows);
  for (int32_t part = first_; part < end();) {
    const int32_t row = row_of(part);
    terms_.clear();
    for (; part < end() && row_of(part) == row; ++part) {
      terms_.push_back(rows.row(RoutesOf(part)[0]));
    }
    factors_.assign(terms_.size(), 1.0f);
    PartialSum(terms_, factors_, limits_.dim, DType::kF32, rows.row(int64_t{row} * top_k_));
  }
}

}  // namespace conclave::worker
