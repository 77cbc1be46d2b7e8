// What an owner computes in one pass: rows of all jobs taken, sorted by expert, and where the
// results go.

#include <algorithm>
#include <cstring>
#include <utility>

#include "worker/experts/expert_server.h"
#include "worker/experts/partial_sum.h"

namespace conclave::worker {

void ExpertServer::Load(const LocalJob& job) {
  for (size_t i = 0; i < job.routes.size(); ++i) {
    const FrameRoute& route = job.routes[i];
    routes_.push_back({route.row + static_cast<uint32_t>(loaded_rows_), route.expert});
    places_.push_back({.row = job.out.row(job.outputs[i])});
  }
  for (int64_t row = 0; row < job.x.rows; ++row, ++loaded_rows_) {
    std::memcpy(rows_.get() + static_cast<size_t>(loaded_rows_) * limits_.dim, job.x.row(row),
                limits_.dim * sizeof(float));
  }
}

// Its routes, and terms if it has any, were copied from first_route on.
void ExpertServer::Load(const RemoteJob& job, size_t first_route) {
  FrameHeader header = job.header;
  header.kind = AnswerTo(header.kind);
  const size_t bytes = limits_.dim * SizeOf(limits_.type);
  std::optional<FrameBody>& reply =
      replies_.emplace_back(transport_->Reserve(job.from, BodyBytes(header)));
  std::byte* const to = reply ? reply->bytes().data() : nullptr;
  for (size_t i = 0; i < header.routes; ++i) {
    const FrameRoute& route = copied_[first_route + i];
    routes_.push_back({route.row + static_cast<uint32_t>(loaded_rows_), route.expert});
    Place place;
    size_t row = i;
    if (header.kind == FrameKind::kSums) {
      place.weight = terms_[first_route + i].weight;
      row = terms_[first_route + i].sum;
    }
    if (to != nullptr) place.packed = to + row * bytes;
    places_.push_back(place);
  }
  const std::span<const std::byte> rows = RowsOf(job.header, job.body.bytes());
  for (size_t row = 0; row < header.rows; ++row, ++loaded_rows_) {
    UnpackRow(rows.data() + row * bytes, limits_.dim, limits_.type,
              rows_.get() + static_cast<size_t>(loaded_rows_) * limits_.dim);
  }
}

// The routes in the order of their experts: inputs_, order_, and in runs_ where each expert's
// begin.
void ExpertServer::SortByExpert() {
  touched_.clear();
  runs_.clear();
  for (const FrameRoute& route : routes_) {
    if (count_[route.expert]++ == 0) touched_.push_back(route.expert);
  }
  std::sort(touched_.begin(), touched_.end());
  int32_t start = 0;
  for (const scheduler::ExpertId id : touched_) {
    runs_.push_back(start);
    start += std::exchange(count_[id], start);
  }
  runs_.push_back(start);
  for (size_t i = 0; i < routes_.size(); ++i) {
    const auto at = static_cast<size_t>(count_[routes_[i].expert]++);
    inputs_[at] = static_cast<int32_t>(routes_[i].row);
    order_[at] = static_cast<int32_t>(i);
  }
  for (const scheduler::ExpertId id : touched_) count_[id] = 0;
  BringTouched();
}

void ExpertServer::BringTouched() {
  if (!options_.bring) return;
  for (const scheduler::ExpertId id : touched_) {
    if (brought_[id]) continue;
    brought_[id] = true;
    options_.bring(*experts_[id]);
  }
}

// What of the sorted routes [first, end) each expert has; result i goes to row outputs[first + i].
void ExpertServer::MakeWork(size_t first, size_t end, const std::vector<int32_t>& outputs) {
  work_.clear();
  for (size_t i = 0; i < touched_.size(); ++i) {
    const size_t from = std::max(first, static_cast<size_t>(runs_[i]));
    const size_t to = std::min(end, static_cast<size_t>(runs_[i + 1]));
    if (from >= to) continue;
    work_.push_back({experts_[touched_[i]],
                     {inputs_.data() + from, to - from},
                     {outputs.data() + (from - first), to - from}});
  }
}

void ExpertServer::Compute() {
  routes_.clear();
  places_.clear();
  replies_.clear();
  loaded_rows_ = 0;
  own_alone_ = remote_now_.empty() && local_now_.size() == 1;
  if (own_alone_) return ComputeInPlace(*local_now_[0]);
  for (const LocalJob* job : local_now_) Load(*job);
  size_t next = 0;
  for (const RemoteJob& job : remote_now_) {
    Load(job, next);
    next += job.header.routes;
  }
  SortByExpert();
  const auto dim = static_cast<int64_t>(limits_.dim);
  const ConstRows rows = {rows_.get(), loaded_rows_, dim, dim};
  limits_.returns == Returns::kSums ? ComputeSums(rows) : ComputeRows(rows);
}

void ExpertServer::ComputeRows(ConstRows rows) {
  for (size_t first = 0; first < routes_.size(); first += kResultRows) {
    const size_t end = std::min(first + kResultRows, routes_.size());
    MakeWork(first, end, every_row_);
    device_.Experts(rows, work_,
                    {results_.get(), static_cast<int64_t>(end - first), rows.cols, rows.cols});
    for (size_t at = first; at < end; ++at) {
      Put(results_.get() + (at - first) * limits_.dim, places_[static_cast<size_t>(order_[at])]);
    }
  }
}

// Results in the order of routes, where the terms of a sum follow each other.
void ExpertServer::ComputeSums(ConstRows rows) {
  MakeWork(0, routes_.size(), order_);
  const ConstRows results = {results_.get(), std::ssize(routes_), rows.cols, rows.cols};
  device_.Experts(rows, work_, {results_.get(), results.rows, results.cols, results.stride});
  for (size_t i = 0; i < places_.size();) {
    const Place& place = places_[i];
    if (place.packed == nullptr) {
      Put(results.row(static_cast<int64_t>(i++)), place);
      continue;
    }
    summed_.clear();
    weights_.clear();
    for (; i < places_.size() && places_[i].packed == place.packed; ++i) {
      summed_.push_back(results.row(static_cast<int64_t>(i)));
      weights_.push_back(places_[i].weight);
    }
    PartialSum(summed_, weights_, limits_.dim, limits_.type, sum_.data());
    PackRow(sum_.data(), limits_.dim, limits_.type, place.packed);
  }
}

// One local job alone is computed from where it lies to where it is wanted.
void ExpertServer::ComputeInPlace(const LocalJob& job) {
  routes_.assign(job.routes.begin(), job.routes.end());
  SortByExpert();
  for (size_t at = 0; at < routes_.size(); ++at) {
    outputs_[at] = job.outputs[static_cast<size_t>(order_[at])];
  }
  MakeWork(0, routes_.size(), outputs_);
  device_.Experts(job.x, work_, job.out);
}

void ExpertServer::Put(const float* result, const Place& place) const {
  if (place.row != nullptr) {
    std::memcpy(place.row, result, limits_.dim * sizeof(float));
  } else if (place.packed != nullptr) {
    PackRow(result, limits_.dim, limits_.type, place.packed);
  }
}

}  // namespace conclave::worker
