"""For lines of tests/shows about exactness: requests of many kinds, and their results alone and together."""

import random

from show import request, tokens_of

REQUESTS = 64
TOKENS = 24


def make_requests(vocabulary, context):
    """Prompts shorter and longer than chunks, some behind the same beginning; greedy and seeded; every option that changes logits."""
    chance = random.Random(20)
    beginning = [chance.randrange(vocabulary) for _ in range(100)]
    made = []
    for i in range(REQUESTS):
        length = min(chance.choice([1, 2, 15, 16, 17, 63, 64, 65, 200, 511, 513, 700]) + chance.randrange(3), context - 40)
        prompt = [chance.randrange(vocabulary) for _ in range(length)]
        if i % 5 == 4:
            prompt = (beginning + prompt)[:length]
        options = dict(temperature=0.9, seed=i, top_p=0.95, top_k=chance.choice([0, 40])) if i % 2 else {}
        if i % 4 >= 2:
            options |= dict(repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.1, min_p=0.01,
                            logit_bias={chance.randrange(vocabulary): 1.5})
        made.append(request(prompt, TOKENS, logprobs=2, **options))
    return made


def one_by_one(cluster, requests):
    return [tokens_of(cluster.inference.Generate(one)) for one in requests]


def at_once(cluster, requests):
    calls = [cluster.inference.Generate(one) for one in requests]
    return [tokens_of(call) for call in calls]
