"""For lines of tests/shows that compare speeds: what clients of a server see, measured the same way whoever serves. A side has
`stream(ids, max_tokens)`, which yields the tokens that come each time that some do."""

import contextlib
import math
import os
import random
import statistics
import subprocess
import threading
import time

from placements import Up
from show import ROOT, WORK, request

ROUNDS = 6  # the fewest whose smallest and largest value hold the median with 95 %


class Conclave:
    """A cluster of one worker, by `conclave up`."""

    def __init__(self, model, threads, flags=()):
        self.up = Up(model, flags=["--threads", str(threads), *flags])

    def stream(self, ids, max_tokens):
        for part in self.up.inference.Generate(request(ids, max_tokens)):
            if part.token_ids:
                yield list(part.token_ids)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.up.__exit__()


class Prompts:
    """Of random words, none twice: nothing is found again in a cache."""

    def __init__(self, first, vocab, seed=1):
        self.first, self.vocab, self.chance = first, vocab, random.Random(seed)

    def make(self, length):
        return [self.chance.randrange(self.first, self.vocab) for _ in range(length)]


class Stream:
    """One request on a thread of its own, from `at` on."""

    def __init__(self, side, ids, max_tokens, at=None):
        self.side, self.ids, self.max_tokens = side, ids, max_tokens
        self.began = time.monotonic() if at is None else at
        self.tokens, self.times, self.error = [], [], None  # a moment for each token
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            for tokens in self.side.stream(self.ids, self.max_tokens):
                self.times += [time.monotonic()] * len(tokens)
                self.tokens += tokens
        except Exception as error:  # pylint: disable=broad-except  # whatever a server does, the line has to say it
            self.error = error

    def join(self):
        self.thread.join(600)
        if self.thread.is_alive() or self.error or len(self.times) != self.max_tokens:
            raise RuntimeError(f"{type(self.side).__name__}: {len(self.times)} of {self.max_tokens} tokens came; {self.error}")
        return self

    def first_token(self):
        return self.times[0] - self.began


def at_once(side, prompts, max_tokens):
    return [stream.join() for stream in [Stream(side, ids, max_tokens) for ids in prompts]]


def same_tokens(sides, prompts, count=8, prompt=32, tokens=16):
    """The share of tokens, up to the first that differs, that two sides have the same: they are to compute the same model."""
    same = 0
    for ids in [prompts.make(prompt) for _ in range(count)]:
        one, other = (at_once(side, [ids], tokens)[0].tokens for side in sides.values())
        same += next((i for i in range(tokens) if one[i] != other[i]), tokens)
    return same / count / tokens


def decode_rate(side, prompts, batch, prompt=32, tokens=64):
    """Tokens/s of so many sequences, while all of them decode."""
    streams = at_once(side, [prompts.make(prompt) for _ in range(batch)], tokens)
    begin, end = max(one.times[0] for one in streams), min(one.times[-1] for one in streams)
    inside = sum(begin < moment <= end for one in streams for moment in one.times)
    if inside < batch * tokens / 2:
        raise RuntimeError(f"{type(side).__name__}: {batch} sequences were together for {inside} tokens only")
    return inside / (end - begin)


def prefill_rate(side, prompts, length):
    """Prompt tokens/s of one prompt, to its first token."""
    stream, = at_once(side, [prompts.make(length)], 1)
    return length / stream.first_token()


def capacity(side, prompts, shape, clients=16, each=2):
    """Requests/s of a closed loop; `shape` is (prompt, tokens)."""
    work = [[prompts.make(shape[0]) for _ in range(each)] for _ in range(clients)]
    errors = []

    def follow(mine):
        try:
            for ids in mine:
                at_once(side, [ids], shape[1])
        except RuntimeError as error:
            errors.append(error)

    began = time.monotonic()
    threads = [threading.Thread(target=follow, args=(mine,)) for mine in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return clients * each / (time.monotonic() - began)


def arrivals(rate, count, seed):
    """Moments of an open loop: exponential gaps, the same for whoever has the seed."""
    chance, moment, moments = random.Random(seed), 0.0, []
    for _ in range(count):
        moment += chance.expovariate(rate)
        moments.append(moment)
    return moments


def first_tokens(side, prompts, shape, moments):
    """Median seconds to the first token, of requests that come at these moments whatever becomes of others."""
    began, streams = time.monotonic(), []
    for moment in moments:
        ids = prompts.make(shape[0])
        time.sleep(max(0.0, began + moment - time.monotonic()))
        streams.append(Stream(side, ids, shape[1], at=began + moment))
    return statistics.median(stream.join().first_token() for stream in streams)


def interval(values, level=0.95):
    """Of the median, by order statistics: no narrower than the level says; with too few values from the first to the last."""
    ordered, n = sorted(values), len(values)
    cut = 0
    while 2 * sum(math.comb(n, i) for i in range(cut + 2)) / 2 ** n <= 1 - level:
        cut += 1
    return ordered[cut], ordered[-1 - cut]


def cpu_seconds():
    """(of the whole machine, of this process and its descendants) since ever; what a dead child took is its parent's."""
    ticks = os.sysconf("SC_CLK_TCK")
    with open("/proc/stat") as file:
        spent = list(map(int, file.readline().split()[1:9]))
    parents, own = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
                parents[int(entry)], own[int(entry)] = int(fields[1]), sum(map(int, fields[11:15]))

    def ours(pid):
        while pid and pid != os.getpid():
            pid = parents.get(pid)
        return pid == os.getpid()

    return (sum(spent) - spent[3] - spent[4]) / ticks, sum(time for pid, time in own.items() if ours(pid)) / ticks


class Quiet:
    """Measures while nobody else computes: waits for that, and measures again if it was disturbed, within a patience of so many
    seconds for each figure; remembers how often that was in vain."""

    def __init__(self, patience=60, limit=0.15):
        self.patience, self.limit, self.figures, self.vain = patience, limit, 0, 0

    def others(self, call):
        """What the call gives, and CPUs that others had meanwhile."""
        began, before = time.monotonic(), cpu_seconds()
        result = call()
        after, took = cpu_seconds(), time.monotonic() - began
        return result, (after[0] - before[0] - (after[1] - before[1])) / took

    def measure(self, call):
        self.figures += 1
        until = time.monotonic() + self.patience
        while True:
            while time.monotonic() < until and self.others(lambda: time.sleep(0.5))[1] > self.limit:
                pass
            result, disturbance = self.others(call)
            if disturbance <= self.limit:
                return result
            if time.monotonic() > until:
                self.vain += 1
                return result


def in_turn(sides, measured, quiet, rounds=ROUNDS):
    """{side: a value of each round}, of `measured(side, round)`; sides in turn, and first those that were second. A round before
    them is for warmth."""
    values = {name: [] for name in sides}
    for side in sides.values():
        measured(side, 0)
    for turn in range(1, rounds + 1):
        for name in sorted(sides, reverse=turn % 2 == 1):
            values[name].append(quiet.measure(lambda: measured(sides[name], turn)))
    return values


def streaming_read(threads):
    """Bytes/s that so many threads read from memory, the best of several passes."""
    program = WORK / "streaming_read"
    source = ROOT / "tests/shows.d/streaming_read.cc"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["c++", "-std=c++20", "-O3", "-march=native", "-pthread", "-o", program, source], check=True)
    return float(subprocess.run([program, str(threads)], stdout=subprocess.PIPE, text=True, check=True).stdout)
