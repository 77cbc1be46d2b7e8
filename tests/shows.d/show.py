"""For lines of tests/shows written in Python: measurements, processes of ours, and a foreign client whose stubs stock
grpcio-tools makes from the protos. Importing it moves the script into an environment under build/shows that has the client's
packages from PyPI."""

import atexit
import os
import pathlib
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "build/shows"
BIN = ROOT / "build/release/bin"
MODEL = ROOT / "deploy/model/conclave-tiny"
PACKAGES = ["grpcio", "grpcio-tools", "grpcio-health-checking", "grpcio-reflection", "tokenizers", "jinja2",
            "transformers"]


def make_environment(environment, packages):
    """A virtual environment with these packages from PyPI, made once; its Python."""
    done = environment / "done"
    if not done.exists() or done.read_text() != str(packages):
        print("making an environment:", *packages, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        subprocess.run([environment / "bin/pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
        done.write_text(str(packages))
    return environment / "bin/python"


def enter_environment():
    environment = WORK / "venv"
    if pathlib.Path(sys.prefix) == environment:
        return
    python = make_environment(environment, PACKAGES)
    os.execv(python, [python, *sys.argv])


def make_stubs():
    stubs = WORK / "stubs"
    protos = sorted((ROOT / "proto/conclave/v1").glob("*.proto"))
    made = stubs / "conclave/v1/inference_pb2_grpc.py"
    if not made.exists() or made.stat().st_mtime < max(proto.stat().st_mtime for proto in protos):
        stubs.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto'}", f"--python_out={stubs}",
                        f"--grpc_python_out={stubs}", *protos], check=True)
    sys.path.insert(0, str(stubs))


os.chdir(ROOT)
enter_environment()
make_stubs()

import grpc  # noqa: E402
from conclave.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc  # noqa: E402,F401

missed = False


def measure(what, value, op, target, unit=""):
    """Prints a measurement beside its target and remembers a miss."""
    global missed
    kept = {"<=": value <= target, ">=": value >= target, "==": value == target}[op]
    missed |= not kept
    value, target = (f"{x:.3g}" if isinstance(x, float) else x for x in (value, target))
    print(f"{what:<58} {value:>12}   target {op} {target} {unit}   {'ok' if kept else 'MISSED'}", flush=True)


def finish():
    sys.exit(1 if missed else 0)


def build(*targets):
    """Builds programs of ours in build/release."""
    log = WORK / "build.log"
    with open(log, "w") as out:
        for command in (["cmake", "--preset", "release"],
                        ["cmake", "--build", "--preset", "release", "--target", *targets]):
            if subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode:
                sys.exit(f"{' '.join(command)} failed:\n" + "".join(open(log).readlines()[-30:]))


class Process:
    """A program of ours from its start to the line that says it is ready, `WORD key=value ...`."""

    def __init__(self, program, *flags, timeout=60, inside=()):
        """inside: a command that runs another one, `ip netns exec NAME` say."""
        self.log = open(WORK / f"{program}.log", "ab")
        self.started = time.monotonic()
        self.process = subprocess.Popen([*inside, BIN / program, *flags], stdout=subprocess.PIPE, stderr=self.log, text=True)
        atexit.register(self.kill)
        lines = queue.Queue()
        threading.Thread(target=lambda: [lines.put(line) for line in self.process.stdout] + [lines.put("")], daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=timeout)
            except queue.Empty:
                sys.exit(f"{program} was not ready after {timeout} s")
            if not line:
                sys.exit(f"{program} ended with status {self.process.wait()} before it was ready; see {self.log.name}")
            if re.match(r"(ready|listening) ", line):
                break
        self.ready_after = time.monotonic() - self.started
        self.at = dict(word.split("=", 1) for word in line.split()[1:])

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, timeout=60):
        """SIGTERM, and the exit status."""
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def metrics(self):
        """{series with its labels: value}"""
        with urllib.request.urlopen(f"http://{self.at['metrics']}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and line[0] != "#"}

    def metric(self, name):
        """The sum over a name's label sets."""
        return sum(value for series, value in self.metrics().items() if series.split("{")[0] == name)

    def resident(self):
        """{"total", "weights"}: bytes in memory, and those of mapped checkpoints among them."""
        sizes = {"total": 0, "weights": 0}
        of_weights = False
        for line in open(f"/proc/{self.pid}/smaps"):
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                of_weights = line.rstrip().endswith(".safetensors")
            elif line.startswith("Rss:"):
                size = int(line.split()[1]) * 1024
                sizes["total"] += size
                sizes["weights"] += size * of_weights
        return sizes


class Cluster:
    """Scheduler, one worker and a router, each with flags of the line's choice, and a client of the router."""

    def __init__(self, model=MODEL, worker=(), router=(), state=None):
        self.state = tempfile.TemporaryDirectory() if state is None else None
        self.directory = pathlib.Path(state or self.state.name)
        self.scheduler = self.start_scheduler("127.0.0.1:0")
        address = self.scheduler.at["grpc"]
        self.worker = Process("conclave-worker", "--model", str(model), "--listen", "127.0.0.1:0", "--scheduler", address,
                              "--id", "w0", "--state", str(self.directory), *worker)
        self.router = Process("conclave-router", "--model", str(model), "--listen", "127.0.0.1:0", "--scheduler", address, *router)
        self.channel = grpc.insecure_channel(self.router.at["grpc"])
        self.inference = inference_pb2_grpc.InferenceStub(self.channel)
        self.wait_for_worker()

    def start_scheduler(self, listen):
        return Process("conclave-scheduler", "--listen", listen, "--state", str(self.directory))

    def wait_for_worker(self, timeout=30):
        """Until the router has a worker: it may know of none yet when it is ready itself."""
        until = time.monotonic() + timeout
        while True:
            try:
                list(self.inference.Generate(request([1], max_tokens=1)))
                return
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > until:
                    raise
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()
        for process in (self.router, self.worker, self.scheduler):
            process.kill()


def request(tokens, max_tokens, temperature=0.0, seed=1, logprobs=None, ignore_eos=True, **sampling):
    made = inference_pb2.GenerateRequest(
        prompt=inference_pb2.Prompt(tokens=inference_pb2.TokenIds(ids=tokens)),
        sampling=inference_pb2.Sampling(temperature=temperature, seed=seed, **sampling),
        stopping=inference_pb2.Stopping(max_tokens=max_tokens, ignore_eos=ignore_eos))
    if logprobs is not None:
        made.logprobs = logprobs
    return made


def tokens_of(responses):
    """Everything a stream of responses says: ([token id], [(token, logprob, [(candidate, logprob)])], finish reason)."""
    ids, logprobs, reason = [], [], 0
    for response in responses:
        ids += response.token_ids
        logprobs += [(one.token_id, one.logprob, [(c.token_id, c.logprob) for c in one.top]) for one in response.logprobs]
        reason = response.finish_reason or reason
    return ids, logprobs, reason


def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]
