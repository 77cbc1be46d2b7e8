#pragma once
// How results are told: a table for people, JSON for programs, a page with plots. Pure functions.

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "loadtest/results.h"

namespace conclave::loadtest {

// What was asked for, as far as a report repeats it.
struct Setting {
  std::string server;
  uint64_t seed = 0;
  bool open = false;                      // loop
  double rate = 0;                        // per second, of an open loop with one rate; or 0
  uint32_t concurrency = 0;               // closed loop
  std::string arrivals;                   // in words
  std::map<std::string, double> weights;  // of adapters, where there is one mix
  Objectives objectives;
};

nlohmann::json ToJson(const Setting& setting, const Results& results);
std::string ToTable(const Setting& setting, const Results& results);
// One HTML document that needs nothing else: tables, and plots in SVG.
std::string ToHtml(const Setting& setting, const Results& results);

}  // namespace conclave::loadtest
