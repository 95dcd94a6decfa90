"""A decoder in the manner of Llama: RMSNorm, rotary positions, grouped queries, SwiGLU, untied head.

    positions ── rotary ── (cos, sin) ──┬────────────┬──── ...      computed once, read by every layer
    tokens ── embed_tokens ──────── layers.0 ─── layers.1 ─── ... ─── norm ─── lm_head ── logits

Source: Touvron et al., Llama 2, 2023, section 2.2 (https://arxiv.org/abs/2307.09288); rotary embedding: Su et
al., RoFormer, 2021 (https://arxiv.org/abs/2104.09864).
Shapes: B batch, T tokens, C width, H heads, D head width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.protocol import Batch

__all__ = ["Config", "LlamaLike", "LlamaOutput", "build", "example", "loss", "make_batch"]


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes; `n_heads` is a multiple of `n_kv_heads`."""

    vocab: int = 256
    width: int = 64
    n_layers: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2
    hidden: int = 160
    context: int = 32
    rope_base: float = 10_000.0


class LlamaOutput(NamedTuple):
    """What the model returns.

    Attributes:
        logits: `[B, T, V]`.
        hidden_states: the input of every layer and the last output, each `[B, T, C]`; None unless asked for.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None


class RMSNorm(nn.Module):
    """Division by the root mean square, computed in float32 whatever the input is."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        x_float = x.float()
        scale = torch.rsqrt(x_float.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (x_float * scale).to(x.dtype)


class RotaryTables(nn.Module):
    """The cosines and sines of rotary positions."""

    inverse_frequency: Tensor

    def __init__(self, head_width: int, base: float) -> None:
        super().__init__()
        exponent = torch.arange(0, head_width, 2).float() / head_width
        self.register_buffer("inverse_frequency", base**-exponent, persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Give `(cos, sin)`, each `[B, 1, T, D]`, for positions `[B, T]`."""
        angles = positions[:, None, :, None].float() * self.inverse_frequency
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()


def rotate(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of channels (i, i + D/2) by the angle of its position."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Causal attention in which groups of query heads share a key and value head."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.head_width = config.width // config.n_heads
        kv_width = config.n_kv_heads * self.head_width
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, kv_width, bias=False)
        self.v_proj = nn.Linear(config.width, kv_width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTC: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Mix the tokens; `mask` is `[B, 1, T, T]`, True where a query may look, or None for plain causal."""
        q, k, v = (
            projection(x_BTC).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, *rotary), rotate(k, *rotary)
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
        out_BTC: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out_BTC


class SwiGLU(nn.Module):
    """A gated feed-forward layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Transform each token by itself."""
        out_BTC: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))
        return out_BTC


class Layer(nn.Module):
    """One pre-norm decoder layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width)
        self.mlp = SwiGLU(config)

    def forward(self, x_BTC: Tensor, *, rotary: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Add attention, then the feed-forward layer, to the residual stream."""
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), rotary, mask)
        out_BTC: Tensor = x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))
        return out_BTC


class LlamaLike(nn.Module):
    """The language model."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab, config.width)
        self.rotary = RotaryTables(config.width // config.n_heads, config.rope_base)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.width)
        self.lm_head = nn.Linear(config.width, config.vocab, bias=False)

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        *,
        start: int = 0,
        output_hidden_states: bool = False,
    ) -> LlamaOutput:
        """Predict each next token.

        Args:
            tokens: `[B, T]` integers below `vocab`.
            attention_mask: `[B, T]` bool, True for a token and False for padding on the right; None for no
                padding.
            start: position of the first token.
            output_hidden_states: also return what enters and leaves each layer.

        Returns:
            Logits, and the hidden states if asked for.
        """
        n_tokens = tokens.shape[1]
        positions = torch.arange(start, start + n_tokens, device=tokens.device).expand(tokens.shape[0], -1)
        rotary = self.rotary(positions)
        mask = None
        if attention_mask is not None:
            causal = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=tokens.device).tril()
            mask = causal & attention_mask[:, None, None, :]
        x_BTC = self.embed_tokens(tokens)
        states = [x_BTC]
        for layer in self.layers:
            x_BTC = layer(x_BTC, rotary=rotary, mask=mask)
            states.append(x_BTC)
        return LlamaOutput(self.lm_head(self.norm(x_BTC)), tuple(states) if output_hidden_states else None)


def build(**size: Any) -> LlamaLike:
    """Build the model.

    Args:
        **size: fields of `Config`.

    Returns:
        The model in train mode.

    Example:
        >>> args, kwargs = example(batch=3)
        >>> output = build(n_layers=2)(*args, **kwargs)
        >>> output.logits.shape, output.hidden_states
        (torch.Size([3, 32, 256]), None)
    """
    return LlamaLike(Config(**size))


def make_batch(n: int, *, seed: int = 0, **size: Any) -> Batch:
    """Draw `n` token sequences; the target is each sequence one token later.

    Args:
        n: number of samples.
        seed: equal seeds draw equal numbers.
        **size: fields of `Config`.

    Returns:
        Arguments `(tokens [n, T],)`, `attention_mask=None` and `start=0` by keyword, target `[n, T]`.
    """
    config = Config(**size)
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(config.vocab, (n, config.context + 1), generator=generator)
    tokens, target = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    return Batch((tokens,), {"attention_mask": None, "start": 0}, target)


def example(batch: int = 4, *, seed: int = 0, **size: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Draw the arguments of one microbatch, as `make_batch` does."""
    drawn = make_batch(batch, seed=seed, **size)
    return drawn.args, drawn.kwargs


def loss(output: LlamaOutput, target: Tensor) -> Tensor:
    """Mean cross entropy of the logits with next tokens `[B, T]`."""
    return F.cross_entropy(output.logits.flatten(0, 1), target.flatten())
