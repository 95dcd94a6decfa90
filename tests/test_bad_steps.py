"""What is wrong with an engine or a step is said in words; a step that fails leaves the next able to run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import autopipe
from autopipe import ArgumentError, EngineError
from tests.refusal import Net, X, call, net, refused, state_of

EIGHT = torch.arange(32.0).reshape(8, 4)  # two a microbatch: one has no batch statistics

# -- the engine

WRONG_ENGINES: dict[str, tuple[dict[str, Any], str]] = {
    "devices": ({"devices": ["cpu"]}, r"^1 devices for 2 stages\.\n  Try: devices=\['cpu', 'cpu'\]$"),
    "schedule": ({"schedule": "zigzag"}, r"^there is no schedule 'zigzag'\.\n  Try: schedule="),
    "reduction": (
        {"loss_reduction": "max"},
        r"^there is no loss_reduction 'max'\.\n  Try: loss_reduction=\"mean\" or \"sum\"$",
    ),
    "microbatches": ({"n_microbatches": 0}, r"^n_microbatches is 0\.\n  Try: n_microbatches=1 or more$"),
}


@pytest.mark.parametrize("name", WRONG_ENGINES)
def test_wrong_argument_of_the_engine_is_refused(name: str) -> None:
    options, text = WRONG_ENGINES[name]
    model = net()
    pipe = call(autopipe.split, model)
    before = state_of(model)
    with pytest.raises(ArgumentError, match=text):
        pipe.engine(**options)
    assert state_of(model) == before


class Two(Net):
    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * scale


WRONG_STEPS: dict[str, tuple[dict[str, Any], tuple[Any, ...], dict[str, Any], str]] = {
    "arguments disagree": (
        {},
        (X, torch.ones(3, 4)),
        {},
        "the arguments disagree about the number of samples: x has 4, scale has 3.\n"
        '  Try: give the same number in each, or name those that carry no batch: batch_dims={"scale": None}',
    ),
    "target disagrees": (
        {"n_microbatches": 2},
        (X, X),
        {"target": torch.ones(3, 4)},
        "the target has the shape (3, 4), but the arguments have 4 samples.\n"
        "  Each microbatch gets its part of the target, along the batch.\n"
        '  Try: give one target a sample, or batch_dims={"target": None} to give each the whole.',
    ),
    "no samples": ({}, (X[:0], X[:0]), {}, "the batch has no samples.\n  x, scale"),
    "batch dimension that is not there": (
        {"batch_dims": {"scale": 5}},
        (X, X),
        {},
        "scale has 2 dimensions, so none of them is its batch dimension 5.\n"
        '  Try: batch_dims={"scale": None}',
    ),
    "batch dimension of no argument": (
        {"batch_dims": {"mask": 0}},
        (X, X),
        {},
        "batch_dims names 'mask', but no tensor among the arguments is called so.\n  Try: one of x, scale",
    ),
}


@pytest.mark.parametrize("name", WRONG_STEPS)
def test_step_that_disagrees_about_the_batch_is_refused(name: str) -> None:
    options, args, judged, text = WRONG_STEPS[name]
    model = Two()
    pipe = call(autopipe.split, model, example_args=(X, X))
    engine = pipe.engine(**options)
    with refused(ArgumentError, text, model):
        engine.step(*args, loss_fn=F.mse_loss if judged else torch.mean, **judged)


def test_target_may_be_the_same_for_all_microbatches() -> None:
    engine = call(autopipe.split, net()).engine(batch_dims={"target": None}, n_microbatches=2)
    assert engine.step(X, target=torch.ones(2, 4), loss_fn=F.mse_loss).loss > 0


# -- a failure in the middle of a step


class Fuse(nn.Module):
    """Fails once, in the forward or the backward of one call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left, self.direction = -1, "forward"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls_left -= 1
        if self.calls_left == 0 and self.direction == "forward":
            raise RuntimeError("out of luck")
        if self.calls_left == 0:
            x = x.clone()
            x.register_hook(burn)
        return x * 1


def burn(_gradient: torch.Tensor) -> None:
    raise RuntimeError("out of luck")


class Fused(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fuse, self.drop = Fuse(), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.fuse(self.drop(self.norm(self.first(x)))))


def fused() -> tuple[Fused, Any]:
    torch.manual_seed(0)
    model = Fused()
    pins = {"first": 0, "fuse": 1, "last": -1}
    pipe = call(autopipe.split, model, n_stages=3, opaque=("fuse",), pin=pins)
    return model, pipe.engine(n_microbatches=4, seed=3)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("at", [1, 3])
def test_step_after_a_failed_one_runs_as_if_nothing_had_been(direction: str, at: int) -> None:
    gradients = []
    for fails in (False, True):
        model, engine = fused()
        clean, stream = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        if fails:
            model.fuse.calls_left, model.fuse.direction = at, direction
            where = ", fuse" if direction == "forward" else ""
            with pytest.raises(
                EngineError, match=rf"^stage 1 failed in 1[FB]\d\.\n  stage 1, microbatch \d{where}"
            ) as raised:
                engine.step(EIGHT, loss_fn=torch.mean)
            assert "RuntimeError: out of luck" in str(raised.value)
            assert isinstance(raised.value.__cause__, RuntimeError)
            assert torch.equal(torch.get_rng_state(), stream)
            model.zero_grad()
            model.load_state_dict(clean)
            model.fuse.calls_left = -1
        engine.step(EIGHT, loss_fn=torch.mean)
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_loss_that_fails_leaves_the_next_step_able_to_run() -> None:
    _, engine = fused()

    def loss_fn(output: torch.Tensor) -> torch.Tensor:
        raise KeyError("labels")

    with pytest.raises(EngineError, match=r"(?s)^stage 2 failed in 2F0\..*KeyError: 'labels'"):
        engine.step(EIGHT, loss_fn=loss_fn)
    with pytest.raises(ArgumentError, match="loss_fn returned a tensor of shape"):
        engine.step(EIGHT, loss_fn=lambda output: output)
    assert engine.step(EIGHT, loss_fn=torch.mean).loss.isfinite()
