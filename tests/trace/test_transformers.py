"""What transformers does to its own models: caches, collected outputs, checkpoints, losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autopipe.trace import capture, signature_of
from tests.trace.agreement import assert_agrees, calls, opaque_modules

transformers = pytest.importorskip("transformers")

IDS = torch.arange(20).reshape(2, 10) + 1


@pytest.fixture
def model() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    return transformers.LlamaForCausalLM(config).train()


def test_loss_and_cache_come_out(model: Any) -> None:
    traced = assert_agrees(model, (), {"input_ids": IDS, "labels": IDS})
    assert opaque_modules(traced) == {}
    assert "model.layers.1.self_attn.q_proj" in calls(traced)


def test_cache_goes_in_and_comes_out(model: Any) -> None:
    model.eval()
    with torch.no_grad():
        cache = model(IDS[:, :6]).past_key_values
    out = capture(model, (), {"input_ids": IDS[:, 6:], "past_key_values": cache})
    assert cache.get_seq_length() == 6
    assert_agrees(model, (), {"input_ids": IDS[:, 6:], "past_key_values": cache}, traced=out)


def test_hidden_states_and_attentions_are_collected(model: Any) -> None:
    model.set_attn_implementation("eager")
    arguments = {"input_ids": IDS, "output_hidden_states": True, "output_attentions": True}
    for _ in range(2):  # the plain run installs hooks in the model
        traced = assert_agrees(model, (), arguments, n_stages=(1, 2))
        assert opaque_modules(traced) == {}


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_is_seen_through(model: Any, use_reentrant: bool) -> None:
    with pytest.warns(FutureWarning, match="deprecated"):
        model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.config.use_cache = False
    # Captured, attention takes a mask, which sums in another order than a causal attention without one.
    traced = assert_agrees(model, (), {"input_ids": IDS, "labels": IDS}, exact=False)
    assert opaque_modules(traced) == {}
    noted = {info.recompute for info in traced.info.values() if info.recompute}
    assert len(noted) == 2


def test_labels_and_config_are_signed(model: Any) -> None:
    plain = signature_of(model, (), {"input_ids": IDS})
    assert signature_of(model, (), {"input_ids": IDS, "labels": IDS}) != plain
    model.config.use_cache = False
    assert signature_of(model, (), {"input_ids": IDS}) != plain


def test_meta_model_gives_the_graph_of_the_real_one(model: Any) -> None:
    with torch.device("meta"):
        meta = transformers.LlamaForCausalLM(model.config).train()
    arguments = {"input_ids": IDS, "labels": IDS}
    on_meta = {name: value.to("meta") for name, value in arguments.items()}
    assert str(capture(meta, (), on_meta)) == str(capture(model, (), arguments))
