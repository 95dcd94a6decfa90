"""A stage sees parameters and buffers where the user's module keeps them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autopipe.rewrite.borrowed import SharedTensors, lend_modules, lend_tensors


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(2))
        self.register_buffer("step", torch.zeros(1))
        self.register_buffer("cache", torch.zeros(1), persistent=False)


def lent(*fqns: str) -> tuple[nn.Module, nn.Module]:
    model, stage = nn.Module(), nn.Module()
    model.add_module("outer", Outer())
    lend_tensors(stage, model, fqns)
    return model, stage


def test_only_what_was_lent_is_in_the_state_dict():
    _, stage = lent("outer.scale", "outer.cache", "outer.step")
    assert list(stage.state_dict()) == ["outer.scale", "outer.step"]
    assert {name for name, _ in stage.named_buffers()} == {"outer.step", "outer.cache"}
    assert [name for name, _ in stage.named_parameters()] == ["outer.scale"]


def test_moving_and_loading_a_stage_changes_the_users_module():
    model, stage = lent("outer.scale", "outer.step")
    parameter = model.outer.scale
    stage.to(torch.float64)
    assert model.outer.scale is parameter
    assert parameter.dtype is torch.float64
    assert model.outer.step.dtype is torch.float64
    stage.load_state_dict({"outer.scale": torch.full((2,), 3.0), "outer.step": torch.ones(1)})
    assert model.outer.scale.tolist() == [3.0, 3.0]
    stage.load_state_dict({"outer.scale": torch.zeros(2), "outer.step": torch.ones(1)}, assign=True)
    assert model.outer.scale.tolist() == [0.0, 0.0]
    assert stage.get_parameter("outer.scale") is model.outer.scale


def test_a_leaf_is_lent_whole_and_what_is_inside_comes_with_it():
    model, stage = nn.Module(), nn.Module()
    model.add_module("outer", Outer())
    lend_modules(stage, {"outer.inner": model.outer.inner, "outer": model.outer})
    lend_tensors(stage, model, ["outer.inner.weight"])
    assert stage.get_submodule("outer") is model.outer


def test_entries_that_were_not_lent_cannot_be_reached():
    entries: dict[str, torch.Tensor | None] = {"a": torch.ones(1), "b": torch.ones(1)}
    seen = SharedTensors(entries, ["a"])
    assert "b" not in seen
    with pytest.raises(KeyError):
        seen["b"] = torch.zeros(1)
    with pytest.raises(KeyError):
        del seen["a"]
    del entries["a"]
    assert len(seen) == 0
