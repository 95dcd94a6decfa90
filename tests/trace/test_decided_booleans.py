"""Attention is told by a size whether it is causal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.trace.agreement import assert_agrees, opaque_modules


class Attention(nn.Module):
    """Causal unless there is one position alone; the size is asked last, so that no bool comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        is_causal = self.training and x.shape[1] > 1
        return functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


def test_attention_with_a_size_for_a_bool_is_seen_through() -> None:
    torch.manual_seed(0)
    before = functional.scaled_dot_product_attention
    traced = assert_agrees(nn.Sequential(Attention(), nn.Linear(8, 2)), (torch.randn(2, 5, 8),))
    assert not opaque_modules(traced)
    assert functional.scaled_dot_product_attention is before
