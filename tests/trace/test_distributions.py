"""Distributions check what they are given: that is a check for the graph, and no branch on data."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from autopipe.errors import CaptureError
from autopipe.rewrite import rewrite
from tests.rewrite.cutting import evenly, run
from tests.trace.agreement import assert_agrees, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


class Sampler(nn.Module):
    """Encodes, draws, decodes; asks for checks, which torch's compiler turns off for the whole process."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.spread, self.out = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        drawn = Normal(self.mean(x), self.spread(x).exp(), validate_args=True).rsample()
        out: Tensor = self.out(drawn) * Categorical(logits=drawn, validate_args=True).entropy()[:, None]
        return out


def test_a_model_that_draws_from_distributions_is_seen_through() -> None:
    torch.manual_seed(0)
    traced = assert_agrees(Sampler(), (X,), n_stages=(1, 3))
    assert not opaque_modules(traced)


def test_what_a_distribution_refuses_a_run_refuses() -> None:
    torch.manual_seed(0)
    model = Sampler()
    traced = assert_agrees(model, (X,), n_stages=(2,))
    staged = rewrite(traced, model, evenly(traced, 2), 2)
    bad = X.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(ValueError, match="Expected parameter loc"):
        model(bad)
    with pytest.raises(CaptureError, match="the model refuses these values: ValueError"):
        run(staged, bad)
