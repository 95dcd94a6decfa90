"""Models wrapped by peft train split as they do plain, and nothing but their adapters is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import autopipe
from tests.kept_training import IDS, X, assert_kept, loss_of
from tests.plain_training import gradients_of

peft = pytest.importorskip("peft")


class Block(nn.Module):
    """Two linears and what is added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(6, 8), nn.Linear(8, 6), nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Model(nn.Module):
    """An embedding, blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 6), nn.Linear(6, 4)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.embed(ids)))


def lora(**options: Any) -> Any:
    given = {"r": 2, "target_modules": ["up", "down"], "init_lora_weights": False} | options
    return peft.LoraConfig(**given)


ADAPTERS = {
    "LoRA": lora,
    "LoRA of an embedding": lambda: lora(target_modules=["embed", "up"]),
    "DoRA": lambda: lora(use_dora=True),
    "LoRA with a head that is trained": lambda: lora(modules_to_save=["head"]),
    "LoHa": lambda: peft.LoHaConfig(r=2, target_modules=["up"], init_weights=False),
    "IA3": lambda: peft.IA3Config(target_modules=["up", "down"], feedforward_modules=["down"]),
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("n_stages", [2, 4])
def test_adapters_train_split_as_they_do_plain(adapter: str, n_stages: int) -> None:
    pipe = assert_kept(lambda: peft.get_peft_model(Model(), ADAPTERS[adapter]()), (IDS,), n_stages=n_stages)
    found = gradients_of(pipe.model)
    trained = {name for name, grad in found.items() if grad is not None}
    assert trained == {name for name, param in pipe.model.named_parameters() if param.requires_grad}
    assert 0 < len(trained) < len(found)


def test_adapted_layers_stay_what_they_are_in_their_stages() -> None:
    model = peft.get_peft_model(Model(), lora())
    pipe = autopipe.split(model, 2, (IDS,))
    layers = {name: part for name, part in model.named_modules() if isinstance(part, peft.tuners.lora.Linear)}
    assert len(layers) == 6
    held = {id(part) for stage in pipe for part in stage.module.modules()}
    assert {id(part.base_layer) for part in layers.values()} <= held


def test_dropout_of_an_adapter_is_drawn_alike_in_any_number_of_stages() -> None:
    losses = []
    for n_stages in (1, 3):
        torch.manual_seed(0)
        model = peft.get_peft_model(Model(), lora(lora_dropout=0.5))
        with autopipe.split(model, n_stages, (IDS,)).engine(n_microbatches=2, seed=1) as engine:
            losses.append(engine.step(IDS, loss_fn=loss_of).loss)
    assert losses[0] == losses[1]


def test_another_adapter_is_another_signature() -> None:
    model = peft.get_peft_model(Model(), lora())
    model.add_adapter("other", lora(r=3))
    pipe = autopipe.split(model, 2, (IDS,))
    for adapter in ("other", "default"):
        model.set_adapter(adapter)
        assert torch.equal(pipe(IDS), model(IDS))
    with model.disable_adapter():
        assert torch.equal(pipe(IDS), model(IDS))


def test_a_merged_adapter_is_one_weight() -> None:
    model = peft.get_peft_model(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), lora(target_modules=["0"]))
    pipe = autopipe.split(model, 2, (X,))
    model.merge_adapter()
    assert torch.equal(pipe(X), model(X))
