"""For lines of tests/shows about adapters that come and go: calls of a cluster, versions by the dozen, and traffic whose every
answer is held against its version's."""

import pathlib
import random
import threading
import time
import urllib.request

from show import cluster_pb2, grpc, request, tokens_of
from tuned import ADAPTERS, tensors, write

WORD = 24  # tokens of an answer


def add(cluster, name, source, operation="", timeout=120):
    return cluster.AddAdapter(cluster_pb2.AddAdapterRequest(name=name, source=str(source), operation_id=operation), timeout=timeout)


def remove(cluster, name, timeout=120):
    return cluster.RemoveAdapter(cluster_pb2.RemoveAdapterRequest(name=name), timeout=timeout)


def listed(cluster):
    """[(name, digest, active)]"""
    rows = cluster.ListAdapters(cluster_pb2.ListAdaptersRequest(), timeout=30).adapters
    return [(row.name, row.digest, row.state == cluster_pb2.ADAPTER_STATE_ACTIVE) for row in rows]


def make_version(folder, number):
    """One of the bundled adapters with its experts' rows turned around by `number`: another version that answers differently."""
    source = list(ADAPTERS.values())[number % len(ADAPTERS)]
    folder = pathlib.Path(folder)
    folder.mkdir()
    (folder / "expert_cfg.json").write_bytes((source / "expert_cfg.json").read_bytes())
    for path in source.glob("*.safetensors"):
        named = {}
        for name, (entry, data) in tensors(path).items():
            row = len(data) // entry["shape"][0]
            turn = number // len(ADAPTERS) % entry["shape"][0] * row
            named[name] = (entry, data[turn:] + data[:turn])
        write(folder / path.name, named)
    return folder


def prompt_of(name):
    chance = random.Random(name)
    return [chance.randrange(500) for _ in range(24)]


def ask(inference, name, max_tokens=WORD):
    made = request(prompt_of(name), max_tokens)
    made.adapter = name
    return inference.Generate(made, timeout=120)


def scraped(worker, name):
    """Of a worker as Status describes it: the sum over a metric's label sets."""
    with urllib.request.urlopen(f"http://{worker.metrics_address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)


def held_bytes(up):
    return int(sum(scraped(worker, "conclave_adapter_expert_bytes") for worker in up.status().workers
                   if worker.state != cluster_pb2.WORKER_STATE_DEAD))


def wait_until(done, what, timeout=60):
    until = time.monotonic() + timeout
    while not done():
        if time.monotonic() > until:
            print(f"  after {timeout} s still not: {what}")
            return False
        time.sleep(0.02)
    return True


class Traffic:
    """One stream after another through each of `names`, each beginning while its name is open."""

    def __init__(self, inference, names, each=1):
        self.inference = inference
        self.asked, self.failed, self.answers = 0, [], []  # answers: (name, began, ended, tokens)
        self.gaps = []  # (when, seconds between two tokens, name)
        self.open = {name: threading.Event() for name in names}
        self.running = {name: 0 for name in names}
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.follow, args=(name,), daemon=True) for name in names for _ in range(each)]
        for thread in self.threads:
            thread.start()

    def begin(self, name):
        with self.lock:
            if not self.open[name].is_set():
                return False
            self.asked += 1
            self.running[name] += 1
            return True

    def close(self, name):
        """No stream begins from now on; what runs goes on."""
        with self.lock:
            self.open[name].clear()

    def follow(self, name):
        while not self.over.is_set():
            if not self.open[name].wait(0.05) or not self.begin(name):
                continue
            began, ids, last = time.monotonic(), [], None
            try:
                for part in ask(self.inference, name):
                    now = time.monotonic()
                    if part.token_ids and last is not None:
                        self.gaps.append((now, now - last, name))
                    last = now if part.token_ids else last
                    ids += part.token_ids
                self.answers.append((name, began, time.monotonic(), tuple(ids)))
            except grpc.RpcError as error:
                self.failed.append(f"{name}: {error.code().name}: {error.details()}")
            with self.lock:
                self.running[name] -= 1

    def wait_idle(self, names=None, timeout=60):
        names = names or list(self.open)
        return wait_until(lambda: not any(self.running[name] for name in names), f"streams of {names} end", timeout)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def answer_of(up, name):
    return tuple(tokens_of(ask(up.inference, name))[0])
