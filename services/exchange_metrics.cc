#include "services/exchange_metrics.h"

#include <array>
#include <string>

namespace conclave::services {
namespace {

using Stats = worker::ExpertHost::Stats;

class Writer {
 public:
  explicit Writer(MetricsWriter& writer) : writer_(writer) {}
  void Counter(const std::string& name, const std::string& help, uint64_t value,
               const Labels& labels = {}) {
    writer_.Counter("conclave_exchange_" + name, help, labels, static_cast<double>(value));
  }
  // One series for each value of an enumeration that anything was counted under.
  template <typename Kind, size_t kSize>
  void Each(const std::string& name, const std::string& help, const std::string& label,
            const std::array<uint64_t, kSize>& counts) {
    for (size_t kind = 0; kind < kSize; ++kind) {
      if (counts[kind] == 0) continue;
      Counter(name, help, counts[kind], {{label, std::string(NameOf(static_cast<Kind>(kind)))}});
    }
  }

 private:
  MetricsWriter& writer_;
};

// As a home.
void WriteHome(const Stats& stats, Writer& writer) {
  const worker::PeerExchange::Stats& home = stats.exchange;
  writer.Counter("frames_asked_total", "Frames of rows sent to the owners of their experts.",
                 home.frames);
  writer.Counter("rows_sent_total", "Rows sent, each once to a worker.", home.rows);
  writer.Counter("routes_asked_total", "(Row, expert) pairs that other workers computed.",
                 home.routes);
  writer.Counter("routes_own_total", "(Row, expert) pairs of own sequences computed here.",
                 home.own_routes);
  writer.Counter("payload_bytes_total",
                 "Rows and routes sent and results received, without headers.", home.bytes);
  writer.Counter("payload_home_bytes_total", "Of these, results received.", home.home_bytes);
  writer.Counter("late_total", "Frames whose rows were asked of a replica as well.", home.late);
  writer.Counter("avoided_total", "Times that a worker was passed over for a while for being late.",
                 home.avoided);
  writer.Counter("rerouted_total", "Frames whose rows a lost worker still owed.", home.rerouted);
  writer.Counter("stale_total", "Answers nobody waited for any more; none of them counted.",
                 home.stale);
  writer.Counter("refusals_received_total", "Answers that refused.", home.refusals);
}

// As an owner.
void WriteOwner(const Stats& stats, Writer& writer) {
  const worker::ExpertServer::Stats& owner = stats.server;
  writer.Counter("passes_total", "Passes over experts, for all that had arrived.", owner.passes);
  writer.Counter("experts_read_total", "Experts whose weights were read, pass by pass.",
                 owner.weights_read);
  writer.Counter("rows_served_total", "Rows of other workers that were computed.", owner.rows);
  writer.Counter("routes_served_total", "(Row, expert) pairs of other workers.", owner.routes);
  writer.Counter("replies_lost_total", "Results whose asker was gone.", owner.replies_lost);
  writer.Each<worker::Refusal>("refused_total", "Frames that were refused, by why.", "reason",
                               owner.refused);
}

}  // namespace

void WriteExchangeMetrics(const worker::Engine& engine, const PeerTransport* transport,
                          MetricsWriter& out) {
  const Stats stats = engine.expert_stats();
  out.Gauge("conclave_experts_owned", "Experts of the placement that are this worker's.", {},
            static_cast<double>(stats.owned));
  out.Counter("conclave_steps_redone_total",
              "Steps done again for want of an expert or because the placement had changed.", {},
              static_cast<double>(engine.stats().steps_redone));
  if (transport == nullptr) return;
  out.Gauge("conclave_peers_connected", "Other workers that frames can go to and come from.", {},
            stats.peers);
  Writer writer(out);
  WriteHome(stats, writer);
  WriteOwner(stats, writer);
  const worker::Transport::Stats& frames = stats.transport;
  writer.Counter("frames_sent_total", "Frames sent, answers included.", frames.frames_sent);
  writer.Counter("frames_received_total", "Frames received.", frames.frames_received);
  writer.Counter("bytes_sent_total", "Bytes of frames sent, headers included.", frames.bytes_sent);
  writer.Counter("bytes_received_total", "Bytes of frames received.", frames.bytes_received);
  writer.Counter("bad_frames_total", "Frames that were none; their connection was closed.",
                 frames.bad_frames);
  writer.Counter("fenced_total", "Frames of or for another process; their connection was closed.",
                 frames.fenced);
  const PeerTransport::Counts counts = transport->counts();
  writer.Each<Loss>("connections_lost_total", "Connections that ended, by why.", "reason",
                    counts.losses);
  writer.Each<Verdict>("hellos_total", "What was said to workers that connected.", "verdict",
                       counts.heard);
  writer.Each<Verdict>("hellos_answered_total", "What workers said to which this one connected.",
                       "verdict", counts.received);
  writer.Counter("hellos_unanswered_total", "Attempts to connect that nobody answered.",
                 counts.unanswered);
  writer.Counter("guests_gone_total",
                 "Connections that ended, or were silent for too long, before a hello had come.",
                 counts.guests_gone);
  writer.Counter("guests_refused_total",
                 "Connections closed unheard: too many at once, or not authorised.",
                 counts.guests_refused);
  writer.Counter("rings_total", "Directions that shared memory carried.", counts.rings);
}

}  // namespace conclave::services
