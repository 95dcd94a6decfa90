"""What an engine says of arguments that cannot be right, before anything is moved."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autopipe
from autopipe.errors import ArgumentError

X = torch.linspace(-1, 1, 24).reshape(6, 4)


def small(model: nn.Module | None = None) -> autopipe.Pipeline:
    model = model or nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    return autopipe.split(model, 2, (X[:2],), n_microbatches=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": "cpu"}, r"devices is 'cpu'\.[\s\S]*Try: devices=\['cpu', 'cpu'\]"),
        ({"devices": ["cpu", "gpu:0"]}, "'gpu:0' is no device"),
        ({"devices": ["cpu", 1.5]}, "1.5 is no device"),
        ({"devices": ["cpu"]}, r"1 devices for 2 stages[\s\S]*devices=\['cpu', 'cpu'\]"),
        ({"n_microbatches": 2.5}, "n_microbatches is 2.5"),
        ({"n_microbatches": 0}, "n_microbatches is 0"),
        ({"n_microbatches": True}, "n_microbatches is True"),
        ({"seed": "a"}, "seed is 'a'"),
        ({"batch_dims": ["mask"]}, r"batch_dims is \['mask'\][\s\S]*Try: batch_dims="),
        ({"batch_dims": {"mask": "first"}}, "batch_dims is"),
        ({"timeout_s": -1}, "timeout_s is -1"),
        ({"group": "world"}, "there is no process group"),
        ({"loss_reduction": "max"}, "there is no loss_reduction 'max'"),
    ],
)
def test_a_wrong_option_is_named_with_a_remedy(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        small().engine(**options)


def test_a_loss_without_a_gradient_is_refused_and_the_next_step_runs() -> None:
    pipe = small()
    with pipe.engine() as engine:
        with pytest.raises(ArgumentError, match="what loss_fn returned has no gradient"):
            engine.step(X, loss_fn=lambda out: out.detach().sum())
        assert engine.step(X, loss_fn=lambda out: out.square().mean()).loss.isfinite()


def test_a_model_without_anything_to_train_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).requires_grad_(False)
    with small(model).engine() as engine, pytest.raises(ArgumentError, match="has no gradient"):
        engine.step(X, loss_fn=lambda out: out.square().mean())


def test_a_loss_of_one_element_gives_a_scalar() -> None:
    pipe = small()
    with pipe.engine() as engine:
        found = engine.step(X, loss_fn=lambda out: out.square().mean().reshape(1)).loss
    assert found.shape == ()
    torch.testing.assert_close(found, pipe.model(X).square().mean().detach())


class Judging(nn.Module):
    """Has arguments that are called like those of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor, target: Tensor, return_output: bool = False, loss_fn: str = "mse") -> Tensor:
        out: Tensor = self.last(self.first(x)) - target
        out = out * 2 if return_output else out
        return out.square().mean() if loss_fn == "mse" else out.abs().mean()


TARGET = torch.ones(6, 1)


def judging() -> tuple[Judging, Any]:
    model = Judging()
    return model, autopipe.split(model, 2, (X[:2], TARGET[:2]), n_microbatches=2).engine()


def test_the_models_own_target_is_given_to_it() -> None:
    model, engine = judging()
    for found in (engine.step(X, target=TARGET), engine.step(X, TARGET)):
        torch.testing.assert_close(found.loss, model(X, TARGET).detach())


def test_what_the_model_has_by_position_is_its_own() -> None:
    model, engine = judging()
    found = engine.step(X, TARGET, True, "mae", return_output=True)
    torch.testing.assert_close(found.loss, model(X, TARGET, True, "mae").detach())
    assert found.output is not None


@pytest.mark.parametrize("keyword", [{"return_output": True}, {"loss_fn": nn.functional.mse_loss}])
def test_a_keyword_that_could_be_the_models_is_refused(keyword: dict[str, Any]) -> None:
    _, engine = judging()
    name = next(iter(keyword))
    with pytest.raises(ArgumentError, match=rf"^{name} could be[\s\S]*Judging.forward[\s\S]*by position"):
        engine.step(X, TARGET, **keyword)


def test_a_target_that_nobody_takes_is_refused() -> None:
    _, engine = judging()
    with pytest.raises(ArgumentError, match="nothing that takes it"):
        engine.step(X, TARGET, target=TARGET)


def test_a_loss_fn_that_is_none_is_refused() -> None:
    with small().engine() as engine, pytest.raises(ArgumentError, match=r"loss_fn is 'mse'\."):
        engine.step(X, loss_fn="mse")
