"""For lines of tests/shows about many workers: clusters of `conclave up`, and placements by lot."""

import json
import pathlib
import random
import tempfile

from show import MODEL, Process, cluster_pb2, cluster_pb2_grpc, grpc, inference_pb2_grpc


class Up:
    """A cluster by `conclave up`, and clients of its first router."""

    def __init__(self, model=MODEL, workers=1, placement=None, flags=(), worker=(), timeout=120):
        self.directory = tempfile.TemporaryDirectory()
        if placement is not None:
            path = pathlib.Path(self.directory.name) / "plan.json"
            path.write_text(json.dumps(placement))
            flags = [*flags, "--placement", str(path)]
        self.process = Process("conclave", "up", "--model", str(model), "--workers", str(workers), *flags,
                               *(f"--worker-flag={flag}" for flag in worker), timeout=timeout)
        self.channel = grpc.insecure_channel(self.process.at["grpc"])
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.cluster = cluster_pb2_grpc.ClusterStub(self.channel)

    def status(self):
        return self.cluster.Status(cluster_pb2.StatusRequest())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.process.stop(150)
        self.directory.cleanup()


def any_placement(workers, layers, experts, seed, replicas=0.25):
    """Every expert somewhere, by lot; about `replicas` of them in several places."""
    chance = random.Random(seed)

    def owners():
        chosen = {chance.randrange(workers)}
        while chance.random() < replicas:
            chosen.add(chance.randrange(workers))
        return sorted(chosen)

    return {"workers": workers, "layers": layers, "experts": experts,
            "placement": [[owners() for _ in range(experts)] for _ in range(layers)]}


def plan_of(placement):
    """The message of a plan that is a dictionary."""
    owners = [workers for layer in placement["placement"] for workers in layer]
    return cluster_pb2.ApplyRequest(workers=placement["workers"], layers=placement["layers"], experts=placement["experts"],
                                    copies=[len(workers) for workers in owners],
                                    owners=[worker for workers in owners for worker in workers])


def owned(placement):
    """How many experts each worker of a plan owns."""
    counts = [0] * placement["workers"]
    for layer in placement["placement"]:
        for workers in layer:
            for worker in workers:
                counts[worker] += 1
    return counts


def moe_shape(model=MODEL):
    """(MoE layers, experts of each) as a checkpoint's config.json has them."""
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    experts = next(config[key] for key in ("n_routed_experts", "num_experts", "num_local_experts") if key in config)
    dense = config.get("first_k_dense_replace", 0)
    return config["num_hidden_layers"] - dense, experts
