"""The demo model: a Mixtral of 10 layers, and its form for training.

Shapes, with D = 320 (width), H = 10 heads and G = 5 key/value heads of 32, E = 8 experts F = 256 wide, L layers:

    embed [V, D], also the head; per layer: q [D, D], k, v [G*32, D], o [D, D], router [E, D],
    w1, w3 [E, F, D] (gate and up), w2 [E, F, D] (down, stored transposed), two norms [D]; a last norm [D]

Weights of all layers are stacked, so that the optimizer treats each kind in one batch. Training computes all
experts of a token in two matrix products and multiplies those not chosen by 0: with experts this small that is
faster than sorting tokens by expert, and it is exactly Mixtral's function. Documents are packed end to end
without padding; `starts` says where each begins, and attention never crosses.
"""
import torch
import torch.nn.functional as F
from torch import nn

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD, EXPERTS, EXPERT_WIDTH, CONTEXT = 10, 320, 10, 5, 32, 8, 256, 4096
ROPE_BASE, EPS = 10000.0, 1e-5


def hf_config(vocab):
    """config.json's content, as transformers' MixtralConfig takes it."""
    return dict(
        vocab_size=vocab, hidden_size=WIDTH, intermediate_size=EXPERT_WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD, hidden_act="silu",
        max_position_embeddings=CONTEXT, rms_norm_eps=EPS, rope_theta=ROPE_BASE, sliding_window=None,
        num_local_experts=EXPERTS, num_experts_per_tok=2, tie_word_embeddings=True, attention_dropout=0.0,
        bos_token_id=1, eos_token_id=2, pad_token_id=None, output_router_logits=False, router_aux_loss_coef=0.01)


def rms_norm(x, gain):
    return (F.rms_norm(x.float(), (x.shape[-1],), eps=EPS) * gain).to(x.dtype)


def rotate(x, cos, sin):
    """Rotary embedding, halves swapped as Llama does. x [T, heads, HEAD]; cos, sin [T, 1, HEAD / 2]."""
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


def attend(q, k, v, starts):
    """Causal attention inside each document. q, k, v [T, H, HEAD]; starts [n + 1], int32, padded with T."""
    scale = HEAD ** -0.5
    if q.is_cuda:
        return torch.ops.aten._flash_attention_forward(
            q, k, v, starts, starts, CONTEXT, CONTEXT, 0.0, True, False, scale=scale)[0]
    t = torch.arange(q.shape[0], device=q.device)
    doc = torch.searchsorted(starts.long(), t, right=True)
    mask = (doc[:, None] == doc[None, :]) & (t[:, None] >= t[None, :])
    out = F.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=mask, scale=scale)
    return out[0].transpose(0, 1)


NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
       0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]


def rounded(w, share):
    """w, moved by `share` (0 or 1) towards what NF4 would store, in blocks of 64 along the last dimension. Gradients
    pass as if nothing happened, so that training goes on with the weights that will be served."""
    code = torch.tensor(NF4, device=w.device)
    with torch.no_grad():
        b = w.reshape(-1, 64)
        s = b.abs().amax(1, keepdim=True).clamp_min(1e-12)
        x = b / s
        near = torch.zeros_like(x) + code[0]
        for i in range(1, 16):
            near = torch.where(x > (code[i - 1] + code[i]) / 2, code[i], near)
        delta = (near * s).reshape(w.shape) - w
    return w + share * delta


def layer(x, cos, sin, starts, norm1, norm2, q, k, v, o, router, w1, w3, w2):
    """One layer: x [T, D] -> (x [T, D], load-balance loss). Weights as above, of this layer, in x's type but for router and norms."""
    T, kind = x.shape[0], x.dtype
    h = rms_norm(x, norm1)
    query = rotate((h @ q.T).view(T, HEADS, HEAD), cos, sin)
    key = rotate((h @ k.T).view(T, KV_HEADS, HEAD), cos, sin)
    value = (h @ v.T).view(T, KV_HEADS, HEAD)
    key, value = (y.repeat_interleave(HEADS // KV_HEADS, 1) for y in (key, value))
    x = x + attend(query, key, value, starts).reshape(T, WIDTH) @ o.T

    h = rms_norm(x, norm2)
    logits = h.float() @ router.T
    first = logits.amax(-1, keepdim=True)
    second = logits.masked_fill(logits >= first, -1e30).amax(-1, keepdim=True)
    chosen = logits >= second
    gate = torch.where(chosen, (logits - first).exp(), 0.0)
    gate = (gate / gate.sum(-1, keepdim=True)).to(kind)
    balance = EXPERTS * (chosen.float().mean(0) * logits.softmax(-1).mean(0)).sum()
    up = h @ w3.reshape(-1, WIDTH).T
    act = F.silu(h @ w1.reshape(-1, WIDTH).T) * up
    act = (act.view(T, EXPERTS, EXPERT_WIDTH) * gate[:, :, None]).reshape(T, -1)
    return x + act @ w2.reshape(-1, WIDTH), balance


def head_loss(h, embed, targets):
    """Cross entropy of each target: h [T, D], embed [V, D] in h's type, targets [T] -> [T]."""
    return F.cross_entropy((h @ embed.T).float(), targets, reduction="none")


class Model(nn.Module):
    # The matrices that NF4 will hold; all but the router are trained by Muon.
    MATRICES = ("q", "k", "v", "o", "w1", "w3", "w2")

    def __init__(self, vocab):
        super().__init__()
        self.one_layer, self.head_loss, self.round = layer, head_loss, rounded
        L, D, E, W = LAYERS, WIDTH, EXPERTS, EXPERT_WIDTH

        def normal(*shape, std=0.02):
            return nn.Parameter(torch.randn(*shape) * std)

        deep = 0.02 / (2 * L) ** 0.5
        self.embed = normal(vocab, D)
        self.q, self.k, self.v = normal(L, D, D), normal(L, KV_HEADS * HEAD, D), normal(L, KV_HEADS * HEAD, D)
        self.o = normal(L, D, D, std=deep)
        self.router = normal(L, E, D)
        self.w1, self.w3, self.w2 = normal(L, E, W, D), normal(L, E, W, D), normal(L, E, W, D, std=deep)
        self.norm1, self.norm2 = nn.Parameter(torch.ones(L, D)), nn.Parameter(torch.ones(L, D))
        self.norm = nn.Parameter(torch.ones(D))

    def compile_parts(self):
        """Compiles a layer, the head and the rounding each once, instead of all layers as one: ready four times as soon, a little slower."""
        self.one_layer, self.head_loss, self.round = (torch.compile(f, dynamic=False) for f in (layer, head_loss, rounded))

    def weights(self, nf4):
        """The matrices of every layer in bf16 (on a CPU: fp32); rounded to NF4 first unless nf4 is None."""
        kind = torch.bfloat16 if self.embed.is_cuda else torch.float32
        out = {}
        for name in self.MATRICES + ("router",):
            w = getattr(self, name)
            if nf4 is not None:
                w = self.round(w.transpose(-1, -2), nf4).transpose(-1, -2) if name == "w2" else self.round(w, nf4)
            out[name] = (w if name == "router" else w.to(kind)).unbind(0)
        return out, kind

    def forward(self, ids, positions, starts, nf4=None):
        """ids, positions [T] -> (hidden states [T, D] after the last norm, load-balance loss)."""
        w, kind = self.weights(nf4)
        freq = ROPE_BASE ** (-torch.arange(0, HEAD, 2, device=ids.device).float() / HEAD)
        angle = positions.float()[:, None] * freq
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        x = F.embedding(ids, self.embed.to(kind))
        balance = 0.0
        for l in range(LAYERS):
            x, b = self.one_layer(x, cos, sin, starts, self.norm1[l], self.norm2[l], *(w[name][l] for name in ("q", "k", "v", "o", "router", "w1", "w3", "w2")))
            balance = balance + b / LAYERS
        return rms_norm(x, self.norm), balance

    def loss(self, ids, targets, weights, positions, starts, nf4=None):
        """The sum of weighted cross entropies, and the load-balance loss."""
        h, balance = self(ids, positions, starts, nf4)
        ce = self.head_loss(h, self.embed.to(h.dtype), targets)
        return (ce * weights).sum(), balance, ce

    def hf_state(self):
        """The weights by transformers' names, as a MixtralForCausalLM holds them."""
        s = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norm}
        for l in range(LAYERS):
            p = f"model.layers.{l}."
            s[p + "input_layernorm.weight"], s[p + "post_attention_layernorm.weight"] = self.norm1[l], self.norm2[l]
            for name in "qkvo":
                s[p + f"self_attn.{name}_proj.weight"] = getattr(self, name)[l]
            s[p + "block_sparse_moe.gate.weight"] = self.router[l]
            for e in range(EXPERTS):
                x = p + f"block_sparse_moe.experts.{e}."
                s[x + "w1.weight"], s[x + "w3.weight"] = self.w1[l, e], self.w3[l, e]
                s[x + "w2.weight"] = self.w2[l, e].T
        return {k: v.detach().contiguous() for k, v in s.items()}
