#include "loadtest/measures.h"

#include <algorithm>
#include <utility>

#include "scheduler/check.h"

namespace conclave::loadtest {

void Measures::Add(const Measures& other) {
  sent += other.sent;
  unsent += other.unsent;
  completed += other.completed;
  cancelled += other.cancelled;
  failed += other.failed;
  judged += other.judged;
  good += other.good;
  input_tokens += other.input_tokens;
  output_tokens += other.output_tokens;
  ttft.Add(other.ttft);
  itl.Add(other.itl);
  e2e.Add(other.e2e);
}

Measures& Timeline::At(Nanos since_start) {
  CONCLAVE_CHECK(width_.count() > 0);
  const Nanos at = std::max(since_start, Nanos(0));
  while (at / width_ >= static_cast<int64_t>(kWindows)) Halve();
  const auto index = static_cast<size_t>(at / width_);
  if (windows_.size() <= index) windows_.resize(index + 1);
  return windows_[index];
}

void Timeline::Halve() {
  std::vector<Measures> halved((windows_.size() + 1) / 2);
  for (size_t i = 0; i < windows_.size(); ++i) halved[i / 2].Add(windows_[i]);
  windows_ = std::move(halved);
  width_ *= 2;
}

double JainIndex(const std::vector<double>& values) {
  double sum = 0, squares = 0;
  for (const double value : values) {
    sum += value;
    squares += value * value;
  }
  if (squares == 0) return 1;
  return sum * sum / (static_cast<double>(values.size()) * squares);
}

}  // namespace conclave::loadtest
