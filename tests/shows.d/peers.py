"""For lines of tests/shows that compare with others: llama.cpp's server, built here from the source package of llama-cpp-python,
checkpoints as it wants them, and PyTorch with transformers, in an environment of its own. All of it is made once, under
build/shows/peers and build/shows/peers-venv."""

import atexit
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading

from show import WORK, make_environment

LLAMA_CPP_PYTHON = "0.3.36"  # what it vendors is the llama.cpp of its day
PACKAGES = ["torch", "transformers", "safetensors", "sentencepiece"]
PEERS = WORK / "peers"
SOURCES = PEERS / f"llama_cpp_python-{LLAMA_CPP_PYTHON}/vendor/llama.cpp"
# As its users build it for the machine they have; what is off has nothing to do with speed, or is not here.
BUILD = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF",
         "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
         "-DLLAMA_OPENSSL=OFF"]


# (file, what it says, what it has to say)
MENDS = [
    # The intrinsic of GCC 12 names 8 bytes of the tiles' configuration as read, so the others are never written and AMX faults.
    ("ggml/src/ggml-cpu/amx/mmq.cpp", "    _tile_loadconfig(&tc);",
     '    __asm__ volatile("" : : "m"(tc));\n    _tile_loadconfig(&tc);'),
    # It knows DeepSeek-V2-Lite by its number of layers, and ours has fewer.
    ("src/models/deepseek2.cpp", "is_lite = (hparams.n_layer() == 27", "is_lite = (hparams.n_layer() <= 27"),
]


def run(what, *command, **options):
    """A long command of a peer's, in the background of whoever works here; what it says is in a log."""
    print(f"{what} (once)", flush=True)
    log = PEERS / "log"
    with open(log, "w") as out:
        if subprocess.run(["nice", *map(str, command)], stdout=out, stderr=subprocess.STDOUT, **options).returncode:
            sys.exit(f"{what} failed:\n" + "".join(open(log).readlines()[-30:]))


def python():
    return make_environment(WORK / "peers-venv", PACKAGES)


def sources():
    if SOURCES.exists():
        return
    PEERS.mkdir(parents=True, exist_ok=True)
    run("getting llama.cpp's sources", sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps",
        "--no-binary", "llama-cpp-python", "--dest", PEERS, f"llama-cpp-python=={LLAMA_CPP_PYTHON}")
    unpacked = PEERS / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tarfile.open(next(PEERS.glob("llama_cpp_python-*.tar.gz"))) as archive:
        archive.extractall(unpacked)
    for name, was, mended in MENDS:
        file = unpacked / SOURCES.relative_to(PEERS) / name
        text = file.read_text()
        assert was in text, f"{name} of llama.cpp is another than was mended"
        file.write_text(text.replace(was, mended))
    os.rename(unpacked / SOURCES.relative_to(PEERS).parts[0], PEERS / SOURCES.relative_to(PEERS).parts[0])
    unpacked.rmdir()


def llama_server():
    """Its program."""
    program = PEERS / f"build-{LLAMA_CPP_PYTHON}/bin/llama-server"
    if not program.exists():
        sources()
        build = program.parents[1]
        run("configuring llama.cpp", "cmake", "-S", SOURCES, "-B", build, "-G", "Ninja", *BUILD)
        run("building llama.cpp's server", "cmake", "--build", build, "--target", "llama-server")
    return program


# Its converter knows a tokenizer by a digest and refuses those it has not seen. Ours is byte-level BPE; prompts are token ids.
CONVERTER = """
import runpy, sys
source, *sys.argv = sys.argv[1:]
sys.path[:0] = [source, source + "/gguf-py"]
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def gguf(checkpoint, stored_as):
    """The checkpoint as llama.cpp reads it, "bf16" or "q8_0"."""
    made = PEERS / f"{checkpoint.name}-{stored_as}.gguf"
    if not made.exists():
        sources()
        partial = made.with_suffix(".part")
        run(f"converting {made.name}", python(), "-c", CONVERTER, SOURCES, SOURCES / "convert_hf_to_gguf.py", checkpoint,
            "--outtype", stored_as, "--outfile", partial)
        os.replace(partial, made)
    return made


class Child:
    """A peer's program, until it says a line that `ready` finds; ended by its own process id."""

    def __init__(self, name, command, ready, timeout=600, **options):
        self.log = open(PEERS / f"{name}.log", "w")
        self.process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, **options)
        atexit.register(self.kill)
        lines, self.lines = queue.Queue(), []
        threading.Thread(target=self.follow, args=(lines,), daemon=True).start()
        self.said = lines
        while True:
            try:
                line = lines.get(timeout=timeout)
            except queue.Empty:
                sys.exit(f"{name} was not ready after {timeout} s; see {self.log.name}")
            if line is None:
                sys.exit(f"{name} ended with status {self.process.wait()} before it was ready; see {self.log.name}")
            self.ready = re.search(ready, line)
            if self.ready:
                break

    def follow(self, lines):
        for line in self.process.stdout:
            self.log.write(line)
            self.log.flush()
            lines.put(line)
        lines.put(None)

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


class LlamaServer(Child):
    """One that answers at a free port of this machine."""

    def __init__(self, model, threads, flags=()):
        command = [llama_server(), "--model", model, "--host", "127.0.0.1", "--port", "0", "--threads", threads,
                   "--threads-batch", threads, *flags]
        super().__init__("llama-server", command, r"listening on http://127\.0\.0\.1:(\d+)", stderr=subprocess.STDOUT)
        self.port = int(self.ready[1])

    def stream(self, ids, max_tokens):
        """The tokens that come each time that some do: greedy, and never ended by the model."""
        body = json.dumps({"prompt": ids, "n_predict": max_tokens, "stream": True, "return_tokens": True, "temperature": 0,
                           "ignore_eos": True, "cache_prompt": False}).encode()
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"POST /completion HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            with connection.makefile("rb") as answer:
                status = answer.readline()
                if b" 200 " not in status:
                    raise RuntimeError(f"llama-server: {status!r} {answer.read(1000)!r}")
                for line in answer:
                    if line.startswith(b"data: "):
                        event = json.loads(line[6:])
                        if event.get("stop"):
                            return
                        yield event["tokens"]


class Transformers(Child):
    """A process that computes by PyTorch on the CPU."""

    WAYS = ("eager", "grouped_mm")  # to compute experts; "batched_mm" copies an expert for each row, more than there is memory

    def __init__(self, checkpoint, threads, experts):
        command = [python(), pathlib.Path(__file__).with_name("transformers_peer.py"), checkpoint, threads, experts]
        super().__init__("transformers", command, r"^ready (.*)$", stdin=subprocess.PIPE)
        self.version = self.ready[1]

    def ask(self, what, *numbers):
        """Seconds of `prefill LENGTH` or `decode LENGTH TOKENS`."""
        self.process.stdin.write(" ".join(map(str, [what, *numbers])) + "\n")
        self.process.stdin.flush()
        line = self.said.get(timeout=600)
        if line is None:
            sys.exit(f"transformers ended; see {self.log.name}")
        return float(line)
