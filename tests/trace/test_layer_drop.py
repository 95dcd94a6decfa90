"""A parent that drops its layers at random is one node, and what it returns must not depend on the draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autopipe.errors import CaptureError
from autopipe.rewrite import rewrite
from tests.rewrite.cutting import evenly, run
from tests.trace.agreement import assert_agrees, opaque_modules

X = torch.linspace(-2, 2, 24).reshape(4, 6)


def test_a_list_of_what_layers_returned_that_were_not_dropped_is_explained() -> None:
    class LayerDrop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
            self.p = 1e-3

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            kept = []
            for layer in self.layers:
                if torch.rand([]) < self.p:
                    continue
                x = layer(x)
                kept.append(x)
            return x, *kept

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = LayerDrop(), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out, *kept = self.encoder(x)
            return self.head(out + sum(kept))

    model = nn.Sequential(Summed(), nn.ReLU())
    traced = assert_agrees(model, (X,), n_stages=(2,))
    assert list(opaque_modules(traced)) == ["0.encoder"]
    staged = rewrite(traced, model, evenly(traced, 2), 2)
    model[0].encoder.p = 1.0
    with pytest.raises(CaptureError, match=r"0\.encoder returns .*: what it draws decides") as raised:
        run(staged, X)
    assert "if torch.rand([]) < self.p:" in str(raised.value)
    assert "probability at that line to 0" in raised.value.remedy
