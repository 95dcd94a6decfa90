"""Arguments that the model itself refuses are refused as its fault, not as that of the capture."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from autopipe.errors import ArgumentError
from autopipe.trace import capture

X = torch.ones(4, 6)


class Net(nn.Module):
    """Two linears, one of them deep inside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
        self.last = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor, scale: float = 1.0, *, mask: Any = None) -> torch.Tensor:
        return self.last(self.body(x)) * scale


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((), {"scale": X}, "missing a required argument: 'x'"),
        ((X,), {"msk": X}, "got an unexpected keyword argument 'msk'"),
        ((X, 1.0, X), {}, "too many positional arguments"),
        ((X,), {"x": X}, "multiple values for argument 'x'"),
    ],
)
def test_arguments_that_do_not_bind_are_named(args: Any, kwargs: Any, what: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        capture(Net(), args, kwargs)
    assert "the arguments do not fit forward(x, scale=1.0, *, mask=None)" in raised.value.what
    assert what in raised.value.what


def test_an_argument_that_only_a_decorator_takes_is_left_to_it() -> None:
    def without_return_dict(function: Any) -> Any:
        @functools.wraps(function)
        def forward(self: nn.Module, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
            out = function(self, *args, **kwargs)
            return {"out": out} if return_dict else out

        return forward

    class Decorated(Net):
        forward = without_return_dict(Net.forward)

    traced = capture(Decorated(), (X,), {"return_dict": False})
    assert len(traced.out_names) == 1


@pytest.mark.parametrize("x", [X[:, :5], X.long(), X.double()], ids=["width", "int64", "float64"])
def test_tensors_that_the_model_refuses_are_refused_with_the_module(
    x: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    model = Net()
    with pytest.raises(RuntimeError) as plain:
        model(x)
    before, state = torch.get_rng_state(), {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ArgumentError) as raised:
        capture(model, (x,))
    assert str(plain.value).splitlines()[0] in raised.value.what
    assert raised.value.where.startswith("in body.0.0 at ")
    assert f"x: {str(x.dtype).removeprefix('torch.')}{list(x.shape)}" in raised.value.why
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert not [record for record in caplog.records if record.name == "torch._subclasses.fake_tensor"]
