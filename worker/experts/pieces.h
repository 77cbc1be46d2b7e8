#pragma once
// What a home asks for in one dispatch, in pieces that a worker answers with one row each, and
// which of them have come. A route is a row's way to one expert, numbered row * top_k + j.
//
// Where rows are returned, every route is a piece, of its own number. Where sums are, a row's
// routes are divided into parts by the placement (scheduler/sum_rule.h), and a part is a piece too,
// behind the routes in number: it comes whole, as its sum, or, once it was split, as the rows of
// its routes, of which home makes the same sum. What comes first counts.
//
// One thread: the home's.

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "scheduler/placement.h"
#include "scheduler/sum_rule.h"
#include "worker/device/tensor.h"
#include "worker/experts/frame.h"

namespace conclave::worker {

class Pieces {
 public:
  explicit Pieces(const FrameLimits& limits);

  // Another dispatch: experts [rows, top_k]. Null placement: all of a row is one part.
  void Begin(const scheduler::Placement* placement, std::span<const scheduler::ExpertId> experts,
             int32_t top_k);

  // The pieces to ask for at first, in the order of rows: [first(), end()).
  int32_t first() const { return first_; }
  int32_t end() const { return static_cast<int32_t>(state_.size()); }

  // Ascending. The piece's row is wanted where that of its first route is.
  std::span<const int32_t> RoutesOf(int32_t piece) const;
  // Whether it comes as a sum.
  bool IsPart(int32_t piece) const { return piece >= routes_; }
  // The piece that holds this one whole; itself if it is none of several.
  int32_t WholeOf(int32_t piece) const;

  // From now on a part's routes are pieces to ask for instead.
  void Split(int32_t part) { state_[Index(part)].split = true; }
  bool split(int32_t piece) const { return state_[Index(piece)].split; }

  // False: it came, by itself or with others.
  bool Needed(int32_t piece) const;
  // It came. How many routes are done by it.
  size_t NoteCome(int32_t piece);
  bool came(int32_t piece) const { return state_[Index(piece)].came; }

  // How many open questions hold the piece.
  int32_t& asked(int32_t piece) { return state_[Index(piece)].asked; }

  // Where sums are returned and all that is needed is in rows [routes, dim]: makes of each row's
  // first route its weighted sum: parts in the order of the placement's workers, each rounded as if
  // it had come.
  void Sum(std::span<const float> weights, Rows rows);

 private:
  struct State {
    int32_t asked = 0;
    bool came = false;
    bool split = false;
  };
  static size_t Index(int32_t piece) { return static_cast<size_t>(piece); }
  void AddParts(const scheduler::Placement* placement,
                std::span<const scheduler::ExpertId> experts);
  void SumPart(int32_t part, std::span<const float> weights, Rows rows);

  const FrameLimits limits_;
  int32_t routes_ = 0;
  int32_t first_ = 0;
  int32_t top_k_ = 1;
  std::vector<State> state_;          // [pieces]
  std::vector<int32_t> every_route_;  // 0, 1, ..
  // Where sums are returned.
  std::optional<scheduler::SumRule> rule_;
  size_t workers_ = 0;               // of the rule
  std::vector<int32_t> names_;       // [top_k] whose sum, of one row
  std::vector<int32_t> order_;       // routes, part by part
  std::vector<int32_t> begin_;       // [parts + 1] into order_
  std::vector<int32_t> part_of_;     // [routes] as a piece
  std::vector<const float*> terms_;  // of one sum
  std::vector<float> factors_;       // theirs
};

}  // namespace conclave::worker
