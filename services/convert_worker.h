#pragma once
// The worker's side of worker.proto: messages to plain structs and back. What a message carries is
// checked here as far as its own shape goes; what depends on the model (vocabulary, context) the
// engine checks. Any thread.

#include "absl/status/statusor.h"
#include "conclave/v1/worker.pb.h"
#include "scheduler/types.h"
#include "worker/engine.h"

namespace conclave::services {

// INVALID_ARGUMENT, naming the field, when a number does not fit. `now` is Engine::Now().
absl::StatusOr<worker::SequenceRequest> ToSequenceRequest(const v1::Submit& submit,
                                                          scheduler::Micros now);

// Appends to what `event` holds already, so that several steps' events of one sequence can share a
// message.
void ToProto(const worker::SequenceEvent& event, const worker::Model& model,
             v1::SequenceEvent& proto);
// Roughly what an event takes in memory and on the wire.
size_t BytesOf(const worker::SequenceEvent& event);

v1::ModelInfo ToProto(const worker::Engine& engine);
v1::WorkerLoad ToProto(const worker::Engine::Stats& stats);

}  // namespace conclave::services
