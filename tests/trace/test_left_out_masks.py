"""Decoders of transformers whose attention is not as causal as their mask: unsplit, values decide.

Plain, attention without a mask is asked for; captured, with one that hides nothing and with the heads of keys
repeated. That sums in another order, so these are compared as closely as that allows.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autopipe.trace import capture
from tests.trace.agreement import assert_agrees, calls

transformers = pytest.importorskip("transformers")

IDS = torch.arange(24).reshape(2, 12) % 17
PADDED = torch.ones(2, 12, dtype=torch.long).index_fill(1, torch.tensor([0, 1]), 0)
PACKED = torch.cat([torch.arange(5), torch.arange(7)]).expand(2, -1)


def decoder(**how: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GemmaConfig(
        vocab_size=17,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        use_cache=False,
        pad_token_id=0,
        **how,
    )
    model: nn.Module = transformers.GemmaModel(config)
    return model


def differs_by_values(model: nn.Module, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether the last position sees other ones in two calls than a causal mask would say."""
    outputs = [model(IDS, **given).last_hidden_state for given in (one, other)]
    return not torch.allclose(outputs[0][:, 3], outputs[1][:, 3], atol=1e-5)


@pytest.mark.parametrize("values", [torch.ones_like(IDS), PADDED])
@pytest.mark.parametrize("example", [torch.ones_like(IDS), PADDED])
def test_attention_that_is_not_causal_reads_all_where_nothing_is_padding(
    example: torch.Tensor, values: torch.Tensor
) -> None:
    model = decoder(use_bidirectional_attention=True)
    traced = capture(model, (IDS,), {"attention_mask": example})
    assert_agrees(model, (IDS,), {"attention_mask": values}, traced=traced, exact=False)
    assert calls(traced).count("is_left_out") == 1


def test_the_values_matter_to_such_a_model() -> None:
    model = decoder(use_bidirectional_attention=True)
    late = torch.ones_like(IDS).index_fill(1, torch.tensor([11]), 0)
    assert differs_by_values(model, {"attention_mask": torch.ones_like(IDS)}, {"attention_mask": late})


@pytest.mark.parametrize("positions", [torch.arange(12)[None], PACKED])
def test_attention_that_is_not_causal_reads_all_of_one_sequence(positions: torch.Tensor) -> None:
    model = decoder(use_bidirectional_attention=True)
    traced = capture(model, (IDS,), {"position_ids": torch.arange(12)[None].expand(2, -1)})
    assert_agrees(model, (IDS,), {"position_ids": positions.expand(2, -1)}, traced=traced, exact=False)


def test_nothing_is_asked_where_attention_and_mask_agree() -> None:
    traced = assert_agrees(decoder(), (IDS,), {"attention_mask": PADDED}, exact=False)
    assert "is_left_out" not in calls(traced)


class Encoder(nn.Module):
    """Makes a mask for both directions; its attention goes by ``is_causal`` where there is none.

    Args:
        n_named: How many of query, key, value and mask, from the last, the attention is given by name.
    """

    def __init__(self, n_named: int = 0) -> None:
        super().__init__()
        self.n_named = n_named
        self.config = transformers.GemmaConfig(attn_implementation="sdpa")
        self.embed, self.qkv = nn.Embedding(17, 8), nn.Linear(8, 24)
        self.is_causal = True

    def forward(self, ids: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        from transformers.masking_utils import create_bidirectional_mask
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        hidden = self.embed(ids)
        mask = create_bidirectional_mask(self.config, hidden, padding)
        q, k, v = self.qkv(hidden)[:, None].chunk(3, -1)
        given = {"query": q, "key": k, "value": v, "attention_mask": mask}
        args = list(given.values())[: 4 - self.n_named]
        named = dict(list(given.items())[4 - self.n_named :])
        out: torch.Tensor = ALL_ATTENTION_FUNCTIONS["sdpa"](self, *args, **named)[0]
        return out


@pytest.mark.parametrize("n_named", [0, 1, 4])
@pytest.mark.parametrize("padding", [torch.ones_like(IDS), PADDED])
def test_causal_attention_with_a_mask_for_both_directions_is_causal_without_padding(
    padding: torch.Tensor, n_named: int
) -> None:
    model = Encoder(n_named)
    traced = capture(model, (IDS, PADDED))
    assert_agrees(model, (IDS, padding), traced=traced, exact=False)
    assert calls(traced).count("is_left_out") == 1
