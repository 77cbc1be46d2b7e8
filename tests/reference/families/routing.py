"""Gates that record what they choose, and the sum of the chosen experts' outputs."""

import torch


class RoutingRecord:
    """What the gates chose, in the order in which the layers ran."""

    def __init__(self):
        self.layers = []  # (slots [tokens, k], weights [tokens, k], gaps [tokens])

    def add(self, slots, weights, gaps):
        self.layers.append((slots.cpu(), weights.float().cpu(), gaps.float().cpu()))


record = RoutingRecord()


def select(scores, k):
    """The k largest of scores [tokens, n], descending, ties to the lower index, and the gap to the next.

    torch.topk leaves open which of two equal scores wins and, unsorted, the order."""
    ordered, index = torch.sort(scores, dim=-1, descending=True, stable=True)
    if k == scores.shape[-1]:
        gap = torch.full_like(ordered[:, 0], float("inf"))  # nothing is left out: never ambiguous
    else:
        gap = ordered[:, k - 1] - ordered[:, k]
    return ordered[:, :k], index[:, :k], gap


def softmax_gate(self, hidden_states, normalise, weights_in_float32=False):
    """The gate of OLMoE, Mixtral and Qwen, as transformers computes it, with `select` for torch.topk."""
    hidden_states = hidden_states.reshape(-1, self.hidden_dim)
    logits = torch.nn.functional.linear(hidden_states, self.weight)
    scores = torch.nn.functional.softmax(logits, dtype=torch.float, dim=-1)
    weights, slots, gap = select(scores, self.top_k)
    if normalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    if not weights_in_float32:
        weights = weights.to(logits.dtype)
    record.add(slots, weights, gap)
    return logits, weights, slots


def sigmoid_gate(self, hidden_states, normalise):
    """The gate of DeepSeek-V3 and GLM-4.5, with `select` for torch.topk."""
    hidden_states = hidden_states.view(-1, self.hidden_dim)
    wide = torch.promote_types(hidden_states.dtype, torch.float32)
    logits = torch.nn.functional.linear(hidden_states.to(wide), self.weight.to(wide))
    scores = logits.sigmoid()
    shifted = scores + self.e_score_correction_bias
    by_group = shifted.view(-1, self.num_group, self.num_experts // self.num_group)
    gap = torch.full_like(scores[:, 0], float("inf"))
    if self.num_group > 1:
        _, group, gap = select(by_group.topk(2, dim=-1).values.sum(dim=-1), self.topk_group)
        chosen = torch.zeros(by_group.shape[:2], dtype=torch.bool).scatter_(1, group, True)
        shifted = by_group.masked_fill(~chosen.unsqueeze(-1), float("-inf")).view(-1, self.num_experts)
    _, slots, score_gap = select(shifted, self.top_k)
    weights = scores.gather(1, slots)
    if normalise:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    weights = weights * self.routed_scaling_factor
    record.add(slots, weights, torch.minimum(gap, score_gap))
    return logits, weights, slots


def sum_in_gate_order(self, hidden_states, top_k_index, top_k_weights):
    """The experts of a layer: their outputs are summed in fp32 in gate order and rounded once."""
    rows = torch.zeros(*top_k_index.shape, self.hidden_dim, dtype=hidden_states.dtype)
    for expert in top_k_index.unique().tolist():
        token, position = torch.where(top_k_index == expert)
        gate, up = torch.nn.functional.linear(hidden_states[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
        down = torch.nn.functional.linear(self.act_fn(gate) * up, self.down_proj[expert])
        rows[token, position] = down
    return (rows.to(top_k_weights.dtype) * top_k_weights.unsqueeze(-1)).sum(dim=1).to(hidden_states.dtype)
