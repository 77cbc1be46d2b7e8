#pragma once
// A scheduler's catalogue of adapters and its placement in virtual time, among workers and a router
// that are told what to say. One thread.

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "scheduler/adapter_catalogue.h"

namespace conclave::scheduler {

inline constexpr Micros kStart = std::chrono::hours(1);

// A scheduler's catalogue and placement among workers "a" and "b" and a router "r", each doing at
// once what it is told, unless a test says otherwise. Directories hold what the test puts there.
class AdapterCatalogueTest : public testing::Test {
 protected:
  AdapterCatalogueTest() {
    for (const char* id : {"a", "b"}) members_[id] = {.id = id};
    routers_["r"];
    Put("/law", "1a");
    Put("/code", "2b");
    options_.limits.names = 4;
    Restart();
    change_->Propose({.workers = {"a", "b"}, .owners = {{0}, {0}, {1}, {1}}}, Members(), now_);
    Rounds(4);
    now_ += options_.listen;
  }

  void Restart() {
    change_ = std::make_unique<PlacementChange>(
        PlacementChange::Options(), change_ ? change_->Save() : PlacementChange::Stored(), now_);
    catalogue_ = std::make_unique<AdapterCatalogue>(
        options_, catalogue_ ? catalogue_->Save() : AdapterCatalogue::Stored(), now_);
  }
  void Put(const std::string& source, const std::string& digest, uint64_t bytes = 100) {
    directories_[source] = {.digest = digest, .replaced = {1, 2}, .bytes = bytes};
  }
  std::vector<PlacementChange::Member> Members() const {
    std::vector<PlacementChange::Member> members;
    for (const auto& [id, member] : members_) members.push_back(member);
    return members;
  }

  // Everybody reports, the scheduler draws its conclusions, everybody follows.
  void Round(Micros after = std::chrono::milliseconds(100)) {
    now_ += after;
    std::vector<AdapterCatalogue::Worker> workers;
    for (const auto& [id, member] : members_) {
      reports_[id].at = now_;
      workers.push_back(
          {.id = id, .alive = member.alive, .leaving = member.leaving, .report = &reports_[id]});
    }
    std::vector<AdapterCatalogue::Router> routers;
    for (auto& [address, report] : routers_) {
      if (!silent_.contains(address)) report.at = now_;
      routers.push_back({.address = address, .report = &report});
    }
    bool changed = change_->Step(Members(), now_);
    const AdapterCatalogue::Known known{
        .view = view_, .workers = workers, .routers = routers, .placement = *change_};
    changed |= catalogue_->Step(known, now_);
    if (const auto wish = catalogue_->Next(known, now_)) {
      Propose(*wish);
      changed = true;
    }
    view_ += changed ? 1 : 0;
    Follow();
  }
  void Rounds(int count) {
    for (int i = 0; i < count; ++i) Round();
  }

  void Propose(const AdapterCatalogue::Wish& wish) {
    const Placement& current = *change_->current();
    Placement next =
        wish.add ? WithAdapter(current, *wish.add) : WithoutAdapter(current, wish.remove);
    catalogue_->Proposed(
        wish,
        change_->Propose(std::move(next), Members(), now_, PlacementChange::Purpose::kAdapters),
        now_);
  }

  void Follow() {
    const AdapterOperation* const checking = catalogue_->Checking();
    for (auto& [id, member] : members_) {
      if (deaf_.contains(id)) continue;
      AdapterCatalogue::Report& report = reports_[id];
      report.view = view_;
      report.check = checking ? checking->check : 0;
      if (checking) report.found = Look(id, checking->source);
      const auto& next = change_->next();
      member.refused = next && refuses_.contains(id) ? next->plan : 0;
      member.acknowledged = next && member.refused == 0 ? next->plan : 0;
      member.adopted = change_->epoch();
    }
    for (auto& [address, report] : routers_) {
      if (!deaf_.contains(address)) report.view = view_;
    }
  }

  FoundAdapter Look(const std::string& worker, const std::string& source) const {
    const auto own = directories_.find(worker + ":" + source);
    const auto found = own == directories_.end() ? directories_.find(source) : own;
    if (found != directories_.end()) return found->second;
    return {.error = AdapterError::kNotFound, .message = source + ": there is none"};
  }

  const AdapterOperation& Of(const AdapterAnswer& opened) const {
    return *catalogue_->Find(opened.id);
  }
  std::string Active(const std::string& name) const {
    const auto found = catalogue_->Save().active.find(name);
    return found == catalogue_->Save().active.end() ? "" : found->second;
  }
  bool Placed(const std::string& digest) const {
    return FindAdapter(*change_->current(), digest) != nullptr;
  }
  void AddLaw() {
    catalogue_->Add("", "law", "/law");
    Rounds(8);
    ASSERT_EQ(Active("law"), "1a");
  }

  AdapterCatalogue::Options options_;
  Micros now_ = kStart;
  uint64_t view_ = 1;
  std::map<std::string, PlacementChange::Member> members_;
  std::map<std::string, AdapterCatalogue::Report> reports_, routers_;
  std::set<std::string> deaf_;     // who follow nothing
  std::set<std::string> silent_;   // routers that are not heard
  std::set<std::string> refuses_;  // workers that cannot prepare
  std::map<std::string, FoundAdapter> directories_;
  std::unique_ptr<PlacementChange> change_;
  std::unique_ptr<AdapterCatalogue> catalogue_;
};

}  // namespace conclave::scheduler
