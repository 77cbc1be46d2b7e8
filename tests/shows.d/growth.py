"""How a step's work grows: what config.json and the gate's choices say it must read and do, a fit of what that costs at a few
points, and curves of both. A point is a dictionary that conclave-step-bench writes of a step, with "config" besides."""

import math

import numpy

BF16 = 2


def experts_of(point):
    """Distinct experts that the rows of a step were sent to, all layers together."""
    return sum(experts for _, experts in point["expert_rows"])


def uniform_experts(point):
    """As many as there would be of a gate that chooses evenly."""
    config = point["config"]
    count, top_k = config["num_experts"], config["num_experts_per_tok"]
    return config["num_hidden_layers"] * count * (1 - (1 - top_k / count) ** point["batch"])


def weights(config):
    """Elements of (a layer's projections, a layer's gate, an expert, the head)."""
    dim = config["hidden_size"]
    return 4 * dim * dim, config["num_experts"] * dim, 3 * dim * config["intermediate_size"], config["vocab_size"] * dim


def bytes_of(point):
    """What a step must read: every weight it needs once, and every sequence's keys and values once. Nothing is fitted."""
    config = point["config"]
    projections, gate, expert, head = weights(config)
    layers, dim = config["num_hidden_layers"], config["hidden_size"]
    elements = layers * (projections + gate) + experts_of(point) * expert + head + point["batch"] * dim
    return BF16 * (elements + layers * point["positions"] * 2 * dim)


def terms(point, panel):
    """What a step's cost is made of. A product goes through a weight once for every `panel` rows, rounded up."""
    config = point["config"]
    projections, gate, expert, head = weights(config)
    layers, batch = config["num_hidden_layers"], point["batch"]
    dense = layers * (projections + gate) + head
    panels = math.ceil(batch / panel)
    return {
        "weights by panels of rows": dense * panels + sum(n * expert * math.ceil(rows / panel) for rows, n in point["expert_rows"]),
        "weights by rows": (dense + layers * config["num_experts_per_tok"] * expert) * batch,
        "keys and values": layers * point["positions"] * 2 * config["hidden_size"],
        "scores of the gate by rows": layers * config["num_experts"] * batch,
        "experts": experts_of(point),
        "rows": batch,
        "steps": 1,
    }


def seconds_terms(point, panel):
    """As terms, and the weights once: memory gives them before anything is done with them."""
    return {"bytes of weights": bytes_of(point) - BF16 * terms(point, panel)["keys and values"], **terms(point, panel)}


def fit(points, values, terms_of):
    """{term: its cost}, none below zero, with the least sum of squares of relative errors; and the prediction that it is."""
    names = list(terms_of(points[0]))
    rows = numpy.array([[terms_of(point)[name] for name in names] for point in points]) / numpy.array(values)[:, None]
    scales = rows.max(axis=0)
    used = list(range(len(names)))
    while True:
        found = numpy.linalg.lstsq(rows[:, used] / scales[used], numpy.ones(len(points)), rcond=None)[0]
        if found.min() >= 0:
            break
        del used[int(found.argmin())]
    costs = {names[i]: cost / scales[i] for i, cost in zip(used, found)}
    return costs, lambda point: sum(cost * terms_of(point)[name] for name, cost in costs.items())


# ---- Curves ----

WIDTH, HEIGHT, MARGIN = 260, 170, 46


def decades(values):
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.08, 0.06 * (high - low))
    return low - room, high + room


def number(value):
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1), ("m", 1e-3), ("µ", 1e-6)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}"


def panel(title, unit, xs, measured, predicted, fitted):
    """Lines of SVG: both axes by logarithms; what is 0 stands at a half."""
    xs = [x or 0.5 for x in xs]
    (left, right), (low, high) = decades(xs), decades(measured + predicted)
    across = lambda x: MARGIN + (math.log10(x) - left) / (right - left) * (WIDTH - MARGIN - 8)
    up = lambda y: HEIGHT - 24 - (math.log10(y) - low) / (high - low) * (HEIGHT - 44)
    yield f'<rect x="{MARGIN}" y="18" width="{WIDTH - MARGIN - 8}" height="{HEIGHT - 42}" class="frame"/>'
    yield f'<text x="{MARGIN}" y="12" class="title">{title}</text>'
    for x in (xs[0], xs[len(xs) // 2], xs[-1]):
        yield f'<text x="{across(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{number(x) if x >= 1 else 0}</text>'
    for y in (min(measured), max(measured)):
        yield f'<text x="{MARGIN - 4}" y="{up(y) + 3:.1f}" text-anchor="end">{number(y)}{unit}</text>'
    line = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(xs, predicted))
    yield f'<polyline points="{line}" class="predicted"/>'
    for x, y, own in zip(xs, measured, fitted):
        yield f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" class="{"fitted" if own else "measured"}"/>'


def curves(path, title, rows):
    """An SVG of rows of panels, each the arguments of panel()."""
    rows = [list(row) for row in rows]
    wide = max(len(row) for row in rows) * WIDTH
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{len(rows) * HEIGHT + 44}" font-family="sans-serif" '
             'font-size="10"><style>.frame{fill:none;stroke:#ccc}.predicted{fill:none;stroke:#36c;stroke-width:1.5}'
             '.measured{fill:#c33}.fitted{fill:#fff;stroke:#c33;stroke-width:1.5}.title{font-weight:bold}</style>'
             f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="16" font-size="13">{title}</text>'
             '<text x="8" y="32">line: predicted; dots: measured; hollow ones are what the prediction was fitted to</text>']
    for i, row in enumerate(rows):
        for j, arguments in enumerate(row):
            parts += [f'<g transform="translate({j * WIDTH},{44 + i * HEIGHT})">', *panel(*arguments), "</g>"]
    path.write_text("\n".join([*parts, "</svg>", ""]))
