"""Flags and modes mean what they meant: training, autocast, no_grad, a backward of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import autopipe
from tests.kept_training import X, assert_kept, built, trained_split


class Between(nn.Module):
    """Runs a function between two linears; the function is given the module."""

    def __init__(self, function: Callable[[Between, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 6), nn.Linear(6, 6), function
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self, self.first(x)))


def functional_dropout(self: Between, x: torch.Tensor) -> torch.Tensor:
    return F.dropout(x, 0.5, self.training)


def attention_dropout(self: Between, x: torch.Tensor) -> torch.Tensor:
    heads = x.reshape(x.shape[0], 2, 1, 3)
    out = F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5 if self.training else 0.0)
    return out.reshape(x.shape)


def branch(self: Between, x: torch.Tensor) -> torch.Tensor:
    if self.training:
        return x + torch.rand_like(x)
    return x * 2


def functional_batch_norm(self: Between, x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, self.mean, self.var, training=self.training)


def batch_norm(self: Between, x: torch.Tensor) -> torch.Tensor:
    return self.norm(x)


@pytest.mark.parametrize(
    "function", [functional_dropout, attention_dropout, branch], ids=lambda function: function.__name__
)
def test_train_and_eval_after_the_split(function: Any) -> None:
    """In train mode the numbers are random: those of the plain model in one call, keyed ones in a step."""
    model = built(lambda: Between(function))
    one, two = (autopipe.split(model, n, (X,)) for n in (1, 2))
    for pipe in (one, two):
        for is_training in (False, True, False):
            model.train(is_training)
            torch.manual_seed(3)
            expected = model(X)
            torch.manual_seed(3)
            assert torch.equal(pipe(X), expected)
    model.train()
    assert not torch.equal(model(X), model(X)), "nothing random was on"
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses = []
    for pipe in (one, two):
        model.load_state_dict(state)
        losses.append(trained_split(pipe, ((X,), {})).losses)
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))


@pytest.mark.parametrize(
    "function", [functional_batch_norm, batch_norm], ids=lambda function: function.__name__
)
def test_running_statistics_move_in_training_and_stay_in_eval(function: Any) -> None:
    pipe = assert_kept(lambda: Between(function))
    before = {name: tensor.clone() for name, tensor in pipe.model.named_buffers()}
    pipe.eval()(X)
    assert all(torch.equal(tensor, before[name]) for name, tensor in pipe.model.named_buffers())
    pipe.train()(X)
    assert not all(torch.equal(tensor, before[name]) for name, tensor in pipe.model.named_buffers())


def test_all_modes_are_kept_by_one_split_that_was_made_in_eval() -> None:
    pipe = assert_kept(lambda: Between(branch).eval())
    assert not pipe.model.training


class Tripled(torch.autograd.Function):
    """Has a backward of its own, which is not the derivative."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x * 3

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0] * ctx.factor + ctx.saved_tensors[0], None


def own_backward(self: Between, x: torch.Tensor) -> torch.Tensor:
    return Tripled.apply(x, 5.0)


def no_grad(self: Between, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        scale = self.last(x).abs().mean()
    return x / scale


def inference(self: Between, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        weights = torch.linspace(0, 1, 6) * 2
    return x + weights.clone()


def autocast(self: Between, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = self.last(x)
        with torch.autocast("cpu", enabled=False):
            z = self.last(x)
    assert (y.dtype, z.dtype) == (torch.bfloat16, torch.float32)
    return y.float() + z


def detached(self: Between, x: torch.Tensor) -> torch.Tensor:
    return x * x.detach() + (x.data > 0)


@pytest.mark.parametrize(
    "function", [own_backward, no_grad, inference, autocast, detached], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("n_stages", [1, 3])
def test_gradients_are_those_that_the_model_asks_for(function: Any, n_stages: int) -> None:
    assert_kept(lambda: Between(function), n_stages=n_stages)


def test_autocast_around_the_call_is_the_callers() -> None:
    model = built(lambda: Between(batch_norm)).eval()
    pipe = autopipe.split(model, 2, (X,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = pipe(X), model(X)
    assert found.dtype is expected.dtype is torch.bfloat16
    assert torch.equal(found, expected)
    assert torch.equal(pipe(X), model(X))
    with torch.inference_mode():
        assert pipe(X).is_inference()
