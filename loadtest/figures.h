#pragma once
// What the three reports derive from results alike. Pure functions.

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "loadtest/report.h"

namespace conclave::loadtest {

double Milliseconds(Histogram::Nanos value);  // with three digits
// 0 rather than nonsense when nothing took any time.
double PerSecond(uint64_t count, std::chrono::duration<double> time);
double AchievedRate(const Results& results);
double OfferedRate(const Results& results);  // with what could not be sent
double GoodShare(const Measures& measures);  // of what is judged; 0 of nothing

// Parts of the whole that a report has a row for, with their names.
using Rows = std::vector<std::pair<std::string, const Measures*>>;
Rows AdapterRows(const Results& results);  // none if no request named one
Rows PhaseRows(const Results& results);
Rows ActionRows(const Results& results);

// Of served tokens (prompts of completed requests and all that was received), as they are and
// divided by the adapters' weights; adapters without one are left out of the latter.
struct Fairness {
  double tokens = 1;
  double tokens_per_weight = 1;
};
Fairness FairnessOf(const Setting& setting, const Results& results);

// "12.5 s to 13.1 s, exit code 0", "never begun".
std::string Describe(const ActionResult& action);

}  // namespace conclave::loadtest
