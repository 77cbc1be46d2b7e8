"""For lines of tests/shows about faults: proxies that damage what workers say to each other, processes that stop, and proof
that the fault happened. A run whose fault did not happen is neither good nor bad: it ends as INVALID."""

import atexit
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from placements import owned
from show import BIN, MODEL, Process, cluster_pb2, cluster_pb2_grpc, grpc, inference_pb2_grpc


def invalid(what):
    sys.exit(f"INVALID: {what}")


class FaultyProxies:
    """A proxy before each of these addresses, all in one process."""

    def __init__(self, targets):
        self.process = subprocess.Popen([BIN.parent / "tests/faulty-proxy", *targets], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)
        self.addresses = [word.split("=", 1)[1] for word in self.process.stdout.readline().split()[1:]]

    def do(self, proxy, what, **how):
        """The counts of the proxy, after it."""
        print(json.dumps({"proxy": proxy, "do": what, **how}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline() or invalid("the proxies have ended"))

    def count(self, name):
        """Of all proxies together."""
        return sum(self.do(proxy, "count")[name] for proxy in range(len(self.addresses)))

    def set_all(self, **faults):
        for proxy in range(len(self.addresses)):
            for way in ("there", "back"):
                self.do(proxy, "set", way=way, **faults)

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)


class Throttled:
    """A process that gets a tenth of its time: stopped for nine parts of every period."""

    LOOP = """if True:
        import os, signal, sys, threading, time
        pid, ran, stood = int(sys.argv[1]), 0.0, 0.0
        over = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        try:
            while not over.is_set():
                began = time.monotonic()
                os.kill(pid, signal.SIGSTOP)
                over.wait(0.045)
                stopped = time.monotonic()
                os.kill(pid, signal.SIGCONT)
                over.wait(0.005)
                stood += stopped - began
                ran += time.monotonic() - stopped
        finally:
            os.kill(pid, signal.SIGCONT)
        print(ran / (ran + stood))"""

    def __init__(self, pid):
        self.process = subprocess.Popen([sys.executable, "-c", self.LOOP, str(pid)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def end(self):
        """The share of its time that the process got."""
        return float(self.process.communicate()[0])


class Mesh:
    """A cluster whose workers reach each other by TCP through faulty proxies, worker i behind proxy i."""

    def __init__(self, placement, workers=4):
        self.directory = tempfile.TemporaryDirectory()
        self.owned = owned(placement)
        plan = pathlib.Path(self.directory.name) / "plan.json"
        plan.write_text(json.dumps(placement))
        self.scheduler = Process("conclave-scheduler", "--listen", "127.0.0.1:0", "--state", self.directory.name,
                                 "--workers", str(workers), "--placement", str(plan))
        # An address of this machine that no other run has: the proxies must know where workers will listen.
        pid = os.getpid()
        targets = [f"127.{64 + (pid >> 16) % 128}.{(pid >> 8) % 256}.{max(1, pid % 255)}:{7801 + i}" for i in range(workers)]
        self.proxies = FaultyProxies(targets)
        at = self.scheduler.at["grpc"]
        self.workers = [Process("conclave-worker", "--model", str(MODEL), "--listen", "127.0.0.1:0", "--scheduler", at,
                                "--id", f"w{i}", "--placed", "--threads", "1", "--exchange", "tcp", "--exchange-listen",
                                targets[i], "--exchange-advertise", self.proxies.addresses[i]) for i in range(workers)]
        self.router = Process("conclave-router", "--model", str(MODEL), "--listen", "127.0.0.1:0", "--scheduler", at)
        self.channel = grpc.insecure_channel(self.router.at["grpc"])
        self.routers = [inference_pb2_grpc.InferenceStub(self.channel)]
        self.wait_whole()

    def whole(self):
        try:
            status = cluster_pb2_grpc.ClusterStub(self.channel).Status(cluster_pb2.StatusRequest(), timeout=10)
        except grpc.RpcError:
            return False
        ready = [worker.experts for worker in status.workers
                 if worker.state == cluster_pb2.WORKER_STATE_READY and not worker.fenced]
        linked = self.router.metric("conclave_router_workers_ready")
        others = len(self.workers) - 1
        return (ready == self.owned and linked == len(self.workers) and
                all(worker.metric("conclave_peers_connected") == others for worker in self.workers))

    def wait_whole(self, timeout=60):
        until = time.monotonic() + timeout
        while not self.whole():
            if time.monotonic() > until:
                sys.exit(f"the cluster is not whole after {timeout} s")
            time.sleep(0.05)

    def counted(self):
        """Every counter about connections, frames, steps and resumed requests: {series: sum over workers and the router}"""
        sums = {}
        for process in (*self.workers, self.router):
            for series, value in process.metrics().items():
                if series.split("{")[0].endswith(("_total", "_count")):
                    sums[series] = sums.get(series, 0) + value
        return sums

    def stop_worker(self, index):
        self.workers[index].signal(signal.SIGSTOP)
        until = time.monotonic() + 10
        while pathlib.Path(f"/proc/{self.workers[index].pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            if time.monotonic() > until:
                invalid(f"worker {index} did not stop")
            time.sleep(0.001)

    def cut(self, sender, receiver, way_back=False):
        """Nothing that `sender` says comes to `receiver`; with `way_back`, nor does it hear on those connections."""
        for way in ("there", "back")[:1 + way_back]:
            self.proxies.do(receiver, "set", way=way, client=f"w{sender}", blackhole=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        for process in (self.router, *self.workers, self.scheduler):
            process.kill()
        self.proxies.close()
        self.directory.cleanup()
