#pragma once
// The workers a router knows, with a link to each: who serves which model, who takes new requests,
// who is only used for want of another, who is given up. What the cluster's view says counts for
// less than what the link itself hears.
//
// Threads: none of its own, and no lock; its owner calls one method at a time.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "conclave/v1/cluster.pb.h"
#include "router/worker_view.h"
#include "scheduler/types.h"
#include "services/credentials.h"
#include "services/worker_link.h"

namespace conclave::services {

// What all workers that serve together agree on.
struct ServedModel {
  v1::ModelInfo info;
  std::string name;  // for clients
  std::string key;   // WorkerView::model
};

class Homes {
 public:
  using Micros = scheduler::Micros;

  struct Options {
    std::string model_name;    // what clients call the model; empty: as the workers do
    WorkerLink::Options link;  // its address is not used
    // A worker the scheduler has not heard from either is given up when its link says nothing for
    // so long: its requests get another home, or their end.
    Micros silence = std::chrono::seconds(1);
    // Whatever the scheduler says, if the worker has promised to say something more often: after
    // the first it gets nothing new where others serve, after the second they take over what it
    // has.
    Micros suspicion = std::chrono::milliseconds(500);
    Micros give_up = std::chrono::seconds(2);
  };

  // on_change: called by links, on other threads, when Refresh has something to see; never by a
  // method of this class.
  Homes(const Options& options, const Credentials& credentials, std::function<void()> on_change);

  // A worker that is there whatever the cluster's view says.
  void Add(const std::string& address) { Find(address).fixed = true; }
  // The cluster's view, whole. A worker it no longer names, or calls suspect or dead, is used as
  // long as its link talks and there is nobody else. One that both have lost is given up.
  void SetView(const v1::ClusterView& view);
  uint64_t view_version() const { return view_.version(); }
  // As last heard, with static workers, and with load and model as their links know them.
  v1::ClusterView view() const;

  // Looks at links and view again; whether anybody takes what is new. views() and served() are as
  // the last call found them.
  bool Refresh();
  // Takes what the workers said last of themselves and of each other into views().
  void NoteLoads();
  // Takes into views() how many sequences each has yet granted.
  void NoteCredits();
  const std::vector<router::WorkerView>& views() const { return views_; }
  // Null until the first worker has said what it serves; changes when nobody serves it any more.
  const std::shared_ptr<const ServedModel>& served() const { return served_; }
  // Of views(): somebody takes new requests, or at least those already admitted.
  bool AnyReady() const;

  // Somebody who is ready and not suspect, other than this link's worker, waits for no expert. Who
  // has no sequences waits for none.
  bool AnyGoesOn(const WorkerLink& except) const;
  // An expert that one who is ready waits for, if all of them wait for one; else empty.
  std::string AllLack() const;

  std::shared_ptr<WorkerLink> LinkOf(uint64_t key) const;  // null: it went since the last Refresh
  // The worker that keeps the sequence of a router that is gone.
  std::optional<uint64_t> KeeperOf(const std::string& request_id) const;
  // Tells draining workers whether they are still needed by the `waiting`, who have no home.
  void AnswerDrains(size_t waiting);
  // Gives up who is dead and silent; whether anything changed that Refresh should see.
  bool WatchSilence();

  using Links = std::vector<std::shared_ptr<WorkerLink>>;
  Links links() const;
  Links LateLinks() const;  // to homes that are late while others, who serve the same, are not
  // The links to workers that are neither in the cluster nor there; they are homes no more.
  Links TakeGone();

 private:
  struct Home {
    uint64_t key = 0;
    std::shared_ptr<WorkerLink> link;
    bool fixed = false;      // by Add
    bool listed = false;     // in the last view, and not dead
    bool quiet = false;      // suspect or dead, has sequences of ours, and its link says nothing
    bool hesitates = false;  // its link says nothing for longer than it promised
    v1::WorkerState state = v1::WORKER_STATE_READY;
  };

  Home& Find(const std::string& address);  // made, if it is new
  std::shared_ptr<const ServedModel> ModelOf(const v1::WorkerHello& hello) const;
  // Somebody who is not suspect.
  bool OthersServe(const Home& home) const;

  const Options options_;
  const Credentials credentials_;
  const std::function<void()> on_change_;
  std::map<std::string, Home> homes_;  // by address
  std::vector<router::WorkerView> views_;
  std::shared_ptr<const ServedModel> served_;
  v1::ClusterView view_;
  uint64_t last_key_ = 0;
};

}  // namespace conclave::services
