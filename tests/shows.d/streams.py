"""For lines of tests/shows about faults: many streams at once, every message with its time, beside those of an undisturbed run."""

import random
import threading
import time

from show import grpc, measure, request

STREAMS = 32
TOKENS = 160
BOUND_S = 60  # of one stream: longer is a hang


def made(seed):
    chance = random.Random(seed)
    one = request([chance.randrange(500) for _ in range(chance.randint(4, 40))], TOKENS,
                  temperature=1.0 if seed % 2 else 0.0, seed=seed, logprobs=1)
    one.request_id = f"stream-{seed}-{time.monotonic_ns()}"
    return one


class Stream:
    """One request on a thread of its own, through one of `routers` (their stubs); if there are several, on through the next
    whenever it breaks, as a client would."""

    def __init__(self, routers, seed):
        self.ids, self.logprobs, self.text = [], [], ""
        self.reason, self.error, self.breaks = 0, None, 0
        self.began, self.times = time.monotonic(), []
        self.ended = None
        self.routers, self.seed, self.request = routers, seed, made(seed)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        until = self.began + BOUND_S
        while self.ended is None:
            try:
                router = self.routers[(self.seed + self.breaks) % len(self.routers)]
                for part in router.Generate(self.request, timeout=until - time.monotonic()):
                    self.take(part)
                self.ended = time.monotonic()
            except grpc.RpcError as error:
                if len(self.routers) > 1 and error.code() == grpc.StatusCode.UNAVAILABLE and time.monotonic() < until:
                    self.breaks += 1
                    self.request.resume_from = len(self.ids)
                    time.sleep(0.05)
                    continue
                self.error = f"{error.code().name}: {error.details()}"
                self.ended = time.monotonic()

    def take(self, part):
        if part.token_ids:
            self.times.append(time.monotonic())
        self.ids += part.token_ids
        self.logprobs += [(one.token_id, one.logprob) for one in part.logprobs]
        self.text += part.text
        self.reason = part.finish_reason or self.reason

    def live(self):
        return self.thread.is_alive()

    def whole(self):
        return self.error is None and self.reason != 0

    def gaps(self):
        return [b - a for a, b in zip(self.times, self.times[1:])]

    def stall(self):
        """The longest wait for a token, the first included, or for the end."""
        moments = [self.began, *self.times, self.ended]
        return max(b - a for a, b in zip(moments, moments[1:]))

    def same(self, other):
        return (self.ids, self.logprobs, self.text, self.reason) == (other.ids, other.logprobs, other.text, other.reason)


def run_streams(routers, during=lambda streams: None):
    streams = [Stream(routers, seed) for seed in range(STREAMS)]
    during(streams)
    for stream in streams:
        stream.thread.join()
    return streams


def steady_streams(routers, seconds):
    """As many streams at once, each followed by the same one again, for so long; by seed, one after the other's end."""
    until = time.monotonic() + seconds
    lots = [[] for _ in range(STREAMS)]

    def follow(seed):
        while time.monotonic() < until:
            lots[seed].append(Stream(routers, seed))
            lots[seed][-1].thread.join()

    threads = [threading.Thread(target=follow, args=(seed,)) for seed in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [stream for lot in lots for stream in lot]


def judge(what, streams, expected):
    """Prints what became of the streams, several runs of them one after the other."""
    for stream in streams:
        if stream.error:
            print(f"  {stream.request.request_id}, {what}: {stream.error} after {len(stream.ids)} tokens")
    measure(f"{what}: failed, of {len(streams)} streams", sum(not one.whole() for one in streams), "==", 0)
    odd = sum(one.whole() and not one.same(expected[one.seed]) for one in streams)
    measure(f"{what}: streams that are not as undisturbed", odd, "==", 0)
