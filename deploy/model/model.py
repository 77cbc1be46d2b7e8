"""The bundled model in PyTorch, written for training on a CPU: DeepSeek-V2 (MLA, a first dense layer, fine-grained routed
experts and a shared one). Parameters are float32, matrix products bfloat16. `save` and `load` speak the published
Hugging Face format; check.py compares this code with transformers on an exported checkpoint.
"""
import ctypes
import json

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

CONFIG = {
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "torch_dtype": "float16",
    "vocab_size": 4096, "hidden_size": 192, "intermediate_size": 384, "moe_intermediate_size": 48,
    "num_hidden_layers": 7, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 64,
    "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "head_dim": 16,
    "n_routed_experts": 32, "num_experts_per_tok": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
    "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False, "routed_scaling_factor": 4.0,
    "aux_loss_alpha": 0.003, "seq_aux": False,
    "hidden_act": "silu", "rms_norm_eps": 1e-6, "initializer_range": 0.02, "attention_bias": False,
    "attention_dropout": 0.0, "mlp_bias": False, "tie_word_embeddings": False, "use_cache": True,
    "max_position_embeddings": 2048, "rope_theta": 10000.0, "rope_scaling": None,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}


def keep_memory():
    """Tells the allocator to keep freed memory: page faults on fresh blocks cost a CPU run a third of its time."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
    libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def linear(x, weight):
    return F.linear(x, weight.to(x.dtype))


class Experts(torch.autograd.Function):
    """Σ over a token's top-k of weight · down(silu(gate x) · up x), rows grouped by expert, no token dropped.

    gate_up is [E, 2I, H], down [E, H, I]. Every group is padded to a multiple of PAD rows: the matrix library generates code
    for each new shape, which costs more than the product. Gradients of experts outside `trained` (None: all) stay zero.
    """
    PAD = 32

    @staticmethod
    def forward(ctx, x, chosen, weights, gate_up, down, trained):
        tokens, k = chosen.shape
        flat = chosen.reshape(-1)
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=len(down))
        padded = (counts + Experts.PAD - 1) // Experts.PAD * Experts.PAD
        shift = (padded.cumsum(0) - padded) - (counts.cumsum(0) - counts)
        place = torch.arange(len(order)) + shift[flat[order]]  # where a sorted row lies among the padded ones
        bounds = [0, *padded.cumsum(0).tolist()]
        source = torch.zeros(bounds[-1], dtype=torch.long).index_copy_(0, place, order // k)
        where = torch.empty_like(order).index_copy_(0, order, place)
        scale = weights.new_zeros(bounds[-1]).index_copy_(0, place, weights.reshape(-1)[order])
        gate_up, down = gate_up.to(x.dtype), down.to(x.dtype)
        rows = x.index_select(0, source)
        hidden = x.new_empty(len(rows), gate_up.shape[1])
        for e in range(len(down)):
            torch.mm(rows[bounds[e]:bounds[e + 1]], gate_up[e].t(), out=hidden[bounds[e]:bounds[e + 1]])
        gate, up = hidden.chunk(2, -1)
        active = F.silu(gate) * up
        y = torch.empty_like(rows)
        for e in range(len(down)):
            torch.mm(active[bounds[e]:bounds[e + 1]], down[e].t(), out=y[bounds[e]:bounds[e + 1]])
        y = y.index_select(0, where).view(tokens, k, -1)
        ctx.save_for_backward(rows, hidden, active, y, source, where, scale, weights, gate_up, down)
        ctx.bounds, ctx.trained = bounds, trained
        return torch.bmm(weights.to(x.dtype).unsqueeze(1), y).squeeze(1)

    @staticmethod
    def backward(ctx, grad):
        rows, hidden, active, y, source, where, scale, weights, gate_up, down = ctx.saved_tensors
        bounds = ctx.bounds
        grad_weights = torch.bmm(y, grad.unsqueeze(2)).squeeze(2).to(weights.dtype)
        grad_y = grad.index_select(0, source) * scale.to(grad.dtype).unsqueeze(1)  # zero in the padding
        grad_active = torch.empty_like(active)
        for e in range(len(down)):
            torch.mm(grad_y[bounds[e]:bounds[e + 1]], down[e], out=grad_active[bounds[e]:bounds[e + 1]])
        gate, up = hidden.chunk(2, -1)
        sigmoid = torch.sigmoid(gate)
        silu = gate * sigmoid
        grad_hidden = torch.cat([grad_active * up * (sigmoid + silu * (1 - sigmoid)), grad_active * silu], -1)
        grad_rows = torch.empty_like(rows)
        grad_gate_up, grad_down = torch.zeros_like(gate_up), torch.zeros_like(down)
        for e in range(len(down)):
            s = slice(bounds[e], bounds[e + 1])
            torch.mm(grad_hidden[s], gate_up[e], out=grad_rows[s])
            if ctx.trained is None or e in ctx.trained:
                torch.mm(grad_hidden[s].t(), rows[s], out=grad_gate_up[e])
                torch.mm(grad_y[s].t(), active[s], out=grad_down[e])
        grad_x = grad_rows.index_select(0, where).view(*weights.shape, -1).sum(1)
        return grad_x, None, grad_weights, grad_gate_up.float(), grad_down.float(), None


class CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of linear(x, weight); the gradient is made in the same pass, a block of rows at a time."""

    @staticmethod
    def forward(ctx, x, weight, targets):
        half = weight.to(x.dtype)
        grads = x.new_empty(len(x), len(weight))
        loss = 0.0
        for start in range(0, len(x), 512):
            block = F.linear(x[start:start + 512], half).float()
            target = targets[start:start + 512].unsqueeze(1)
            block = torch.log_softmax(block, -1)
            loss -= block.gather(1, target).sum().item()
            block.exp_()
            block.scatter_add_(1, target, torch.full_like(target, -1.0, dtype=torch.float32))
            grads[start:start + 512] = block
        ctx.save_for_backward(x, half, grads)
        return torch.tensor(loss / len(x))

    @staticmethod
    def backward(ctx, grad):
        x, half, grads = ctx.saved_tensors
        scale = (grad / len(x)).item()
        grad_weight = torch.mm(grads.t(), x).float().mul_(scale) if ctx.needs_input_grad[1] else None
        return torch.mm(grads, half).mul_(scale), grad_weight, None


class CausalAttention(torch.autograd.Function):
    """softmax(q kᵀ · scale) v under the causal mask, q, k, v as [batch · heads, time, dim], a block of queries at a time.

    On a CPU this is several times as fast as the fused kernel of PyTorch, whose head sizes must be equal."""
    BLOCK = 256

    @staticmethod
    def forward(ctx, q, k, v, scale):
        q = q * scale
        out, saved = q.new_empty(*q.shape[:2], v.shape[2]), []
        for start in range(0, q.shape[1], CausalAttention.BLOCK):
            end = min(start + CausalAttention.BLOCK, q.shape[1])
            scores = torch.bmm(q[:, start:end], k[:, :end].transpose(1, 2))
            scores[:, :, start:] += torch.full((end - start, end - start), float("-inf"), dtype=q.dtype).triu(1)
            saved.append(torch.softmax(scores, -1))
            out[:, start:end] = torch.bmm(saved[-1], v[:, :end])
        ctx.save_for_backward(q, k, v, *saved)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, *saved = ctx.saved_tensors
        grad = grad.contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, probabilities in enumerate(saved):
            start, end = i * CausalAttention.BLOCK, probabilities.shape[2]
            g = grad[:, start:end]
            grad_v[:, :end] += torch.bmm(probabilities.transpose(1, 2), g)
            g = torch._softmax_backward_data(torch.bmm(g, v[:, :end].transpose(1, 2)), probabilities, -1, q.dtype)
            grad_q[:, start:end] = torch.bmm(g, k[:, :end])
            grad_k[:, :end] += torch.bmm(g.transpose(1, 2), q[:, start:end])
        return grad_q * ctx.scale, grad_k, grad_v, None


class Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def rotate(x, cos, sin):
    """Rotary embedding over interleaved pairs, as DeepSeek-V2 stores them; x is [batch, time, heads, dim]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.nope, self.rope = c["num_attention_heads"], c["qk_nope_head_dim"], c["qk_rope_head_dim"]
        self.value, self.rank = c["v_head_dim"], c["kv_lora_rank"]
        size = c["hidden_size"]
        self.q_proj = nn.Linear(size, self.heads * (self.nope + self.rope), bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(size, self.rank + self.rope, bias=False)
        self.kv_a_layernorm = Norm(self.rank, c["rms_norm_eps"])
        self.kv_b_proj = nn.Linear(self.rank, self.heads * (self.nope + self.value), bias=False)
        self.o_proj = nn.Linear(self.heads * self.value, size, bias=False)

    def forward(self, x, cos, sin):
        batch, time, _ = x.shape
        q = linear(x, self.q_proj.weight).view(batch, time, self.heads, -1)
        latent, k_rope = linear(x, self.kv_a_proj_with_mqa.weight).split([self.rank, self.rope], -1)
        kv = linear(self.kv_a_layernorm(latent), self.kv_b_proj.weight).view(batch, time, self.heads, -1)
        k_rope = rotate(k_rope.unsqueeze(2), cos, sin).expand(-1, -1, self.heads, -1)
        q = torch.cat([q[..., :self.nope], rotate(q[..., self.nope:], cos, sin)], -1)
        k = torch.cat([kv[..., :self.nope], k_rope], -1)
        q, k, v = (z.transpose(1, 2).flatten(0, 1).contiguous() for z in (q, k, kv[..., self.nope:]))
        y = CausalAttention.apply(q, k, v, (self.nope + self.rope) ** -0.5)
        return linear(y.unflatten(0, (batch, self.heads)).transpose(1, 2).flatten(2), self.o_proj.weight)


class Mlp(nn.Module):
    def __init__(self, size, inner):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(size, inner, bias=False), nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x):
        return linear(F.silu(linear(x, self.gate_proj.weight)) * linear(x, self.up_proj.weight), self.down_proj.weight)


class Moe(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.k, self.scale, self.trained = c["num_experts_per_tok"], c["routed_scaling_factor"], None
        size, inner, count = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"]
        self.gate = nn.Parameter(torch.empty(count, size))
        self.gate_up = nn.Parameter(torch.empty(count, 2 * inner, size))
        self.down = nn.Parameter(torch.empty(count, size, inner))
        self.shared_experts = Mlp(size, inner * c["n_shared_experts"])

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        scores = F.linear(flat.float(), self.gate).softmax(-1)
        weights, chosen = scores.topk(self.k, -1)
        self.counts = torch.bincount(chosen.reshape(-1), minlength=len(self.gate))
        load = self.counts / self.counts.sum()
        self.balance = len(self.gate) * (load * scores.mean(0)).sum()  # 1 when even
        y = Experts.apply(flat, chosen, weights * self.scale, self.gate_up, self.down, self.trained)
        return y.view_as(x) + self.shared_experts(x)


class Layer(nn.Module):
    def __init__(self, c, index):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = Moe(c) if index >= c["first_k_dense_replace"] else Mlp(c["hidden_size"], c["intermediate_size"])

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, config, dtype=torch.bfloat16):
        super().__init__()
        c = self.config = config
        self.dtype = dtype
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        half = c["qk_rope_head_dim"] // 2
        angle = torch.outer(torch.arange(c["max_position_embeddings"]).float(),
                            c["rope_theta"] ** (-torch.arange(half).float() / half))
        self.register_buffer("cos", angle.cos().unsqueeze(1), persistent=False)
        self.register_buffer("sin", angle.sin().unsqueeze(1), persistent=False)
        for name, p in self.named_parameters():
            if name == "embed_tokens.weight":
                nn.init.normal_(p, std=0.7)
            elif name == "lm_head.weight":
                nn.init.zeros_(p)
            elif p.dim() > 1:
                small = name.endswith(("down_proj.weight", "o_proj.weight", ".down"))
                nn.init.normal_(p, std=0.02 if name.endswith(".gate") else p.shape[-1] ** -0.5 * (0.3 if small else 1))

    def moes(self):
        """(layer index, Moe) of every MoE layer."""
        return [(i, layer.mlp) for i, layer in enumerate(self.layers) if isinstance(layer.mlp, Moe)]

    def hidden(self, ids):
        x = self.embed_tokens(ids).to(self.dtype)
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def loss(self, ids):
        """Mean cross-entropy of every token after the first."""
        x = self.hidden(ids[:, :-1])
        return CrossEntropy.apply(x.reshape(-1, x.shape[-1]), self.lm_head.weight, ids[:, 1:].reshape(-1))

    @torch.no_grad()
    def logprobs(self, ids):
        """log p(ids[:, i + 1] | ids[:, :i + 1])."""
        out = torch.log_softmax(linear(self.hidden(ids[:, :-1]), self.lm_head.weight).float(), -1)
        return out.gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)


def expert_tensors(model, layer, expert, prefix="model."):
    """One routed expert as its three published tensors."""
    moe = model.layers[layer].mlp
    gate, up = moe.gate_up.data[expert].chunk(2, 0)
    key = f"{prefix}layers.{layer}.mlp.experts.{expert}."
    return {key + "gate_proj.weight": gate, key + "up_proj.weight": up, key + "down_proj.weight": moe.down.data[expert]}


def tensors(model):
    """The published state dict. Rounded to bfloat16, as training multiplies, and stored as float16, which holds those
    values (all but the smallest, to 3e-8) and which a server widens exactly: in bfloat16 arithmetic two correct
    implementations already differ by more than 0.02 in log-probability, because choices of the gate are close."""
    out = {}
    for name, p in model.state_dict().items():
        if name.endswith((".gate_up", ".down")):
            continue
        name = name.removesuffix(".gate") + ".gate.weight" if name.endswith(".gate") else name
        out[name if name.startswith("lm_head") else "model." + name] = p
    for layer, moe in model.moes():
        for expert in range(len(moe.down)):
            out.update(expert_tensors(model, layer, expert))
    return {k: v.to(torch.bfloat16).to(torch.float16).contiguous() for k, v in out.items()}


def save(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
    safetensors.torch.save_file(tensors(model), folder / "model.safetensors", metadata={"format": "pt"})


def overlay(model, state):
    """Copies published tensors, with or without the `model.` prefix, over the model's."""
    own = model.state_dict()
    for key, value in state.items():
        key = key.removeprefix("model.")
        parts = key.split(".")
        if "experts" in parts:
            layer, expert, kind = int(parts[1]), int(parts[4]), parts[5]
            moe = model.layers[layer].mlp
            inner = moe.down.shape[2]
            part = {"gate_proj": moe.gate_up.data[expert, :inner], "up_proj": moe.gate_up.data[expert, inner:],
                    "down_proj": moe.down.data[expert]}[kind]
        else:
            part = own[key.replace(".gate.weight", ".gate")]
        part.copy_(value)


def load(folder, dtype=torch.bfloat16):
    model = Model(json.loads((folder / "config.json").read_text()), dtype)
    overlay(model, safetensors.torch.load_file(folder / "model.safetensors"))
    return model
