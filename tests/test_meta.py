"""On the meta device a model has the graph, and the plan, that it has with values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from autopipe.arguments import checked_choices
from autopipe.planning import plan_for
from autopipe.trace import capture
from tests.shallow import load


def on_meta(value: Any) -> Any:
    return pytree.tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), value)


def assert_same_on_meta(real: nn.Module, meta: nn.Module, args: Any, kwargs: Any) -> None:
    there, here = capture(meta, *on_meta((args, kwargs))), capture(real, args, kwargs)
    assert str(there) == str(here)
    assert dict(there.info) == dict(here.info)  # shapes, FQNs, call ordinals, effects, source lines
    assert (there.together, there.order, there.sizes) == (here.together, here.order, here.sizes)
    unset: dict[str, Any] = dict.fromkeys(("n_ranks", "n_microbatches", "memory_limit", "pin"))
    rest = {"schedule": "1f1b", "cost": "roofline", "keep_together": (), "same_stage": (), "opaque": ()}
    on_real, from_meta = (
        plan_for(
            model,
            traced,
            checked_choices(model, 3, hardware_choice="h100", **unset, **rest),
            (args, kwargs),
            lambda what: None,
        )
        for model, traced in ((real, here), (meta, there))
    )
    assert from_meta.to_json() == on_real.to_json()


@pytest.mark.parametrize("name", ["gpt", "recommender", "resnet"])
def test_a_model_is_captured_and_planned_as_with_values(name: str) -> None:
    file = load(name)
    with torch.device("meta"):
        meta = file.build()
    assert_same_on_meta(file.build(), meta, *file.example(2))


TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(("name", "more"), [("Llama", {}), ("Mixtral", {"num_local_experts": 4})])
def test_a_model_of_transformers_is_captured_and_planned_as_with_values(
    name: str, more: dict[str, Any]
) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**TEXT, **more)
    model_class = getattr(transformers, f"{name}ForCausalLM")
    ids = torch.arange(24).reshape(2, 12)
    kwargs = {"input_ids": ids, "labels": ids, "attention_mask": torch.ones_like(ids)}
    with torch.device("meta"):
        meta = model_class(config).train()
    assert_same_on_meta(model_class(config).train(), meta, (), kwargs)
