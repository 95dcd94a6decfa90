"""Masks and tables run in every stage that reads them: nothing is sent, and training is the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import autopipe
from autopipe.cost import hardware
from autopipe.ir.hardware import Link
from autopipe.ir.repeatable import repeatable_units
from autopipe.trace import capture
from tests.plain_training import assert_bitwise, gradients_of
from tests.shallow import load

SLOW = replace(hardware("h100"), links=(Link("string", 1e6, 1.0, "a test"),))
MODELS = ("llama_like", "tied_lm", "encoder_decoder")


class Reader(nn.Module):
    """Reads values of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(4.0))
        self.register_buffer("seen", torch.zeros(()))
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        mask = ids > 0
        filled = torch.zeros_like(x)
        filled.masked_fill_(mask, 2.0)
        low, high = self.table.split(2)
        noise = torch.rand(4)
        grown = x * self.weight
        self.seen += 1
        counted = self.seen * 2
        return grown + filled + low.sum() * high.sum() + noise + counted + mask


def names_of(traced, words: tuple[str, ...]) -> set[str]:
    return {node.name for node in traced.compute_nodes() if any(word in node.name for word in words)}


def test_what_can_run_twice_is_what_touches_nothing_else():
    traced = capture(Reader(), (torch.ones(3, 4), torch.ones(3, 4, dtype=torch.long)), {})
    units = repeatable_units(traced)
    can = frozenset().union(*units)
    assert names_of(traced, ("gt", "zeros_like", "masked_fill", "split", "getitem")) <= can
    assert not {"rand", "mul", "mul_1", "add"} & can
    together = next(unit for unit in units if any("masked_fill" in name for name in unit))
    assert any("zeros_like" in name for name in together)
    taken = next(unit for unit in units if any("split" in name for name in unit))
    assert sum("getitem" in name for name in taken) == 2


class ReadAfterwards(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        filled = torch.zeros(4)
        view = filled.view(2, 2)
        filled.add_(1)
        return x + view.view(4) * 3


def test_a_view_that_is_read_after_the_write_stays_where_the_write_is():
    traced = capture(ReadAfterwards(), (torch.ones(3, 4),), {})
    assert not any("zeros" in name for unit in repeatable_units(traced) for name in unit)


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.leaf = nn.ReLU()
        self.last = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.leaf(x) + 1)


def test_a_module_with_hooks_runs_where_it_is_and_nowhere_else():
    model = Hooked()
    assert any("leaf" in unit for unit in repeatable_units(capture(model, (torch.ones(3, 4),), {})))
    model.leaf.register_forward_hook(lambda *_: None)
    assert not any("leaf" in unit for unit in repeatable_units(capture(model, (torch.ones(3, 4),), {})))


@pytest.mark.parametrize("name", MODELS)
def test_over_a_slow_link_nothing_without_gradient_is_sent_and_training_is_the_same(name):
    file = load(name)
    torch.manual_seed(0)
    model = file.build()
    args, kwargs = file.example(2)
    pipe = autopipe.split(model, 3, args, kwargs, hardware=SLOW)
    assert pipe.plan.partition.recomputed
    assert [t.value for t in pipe.plan.transfers if not t.grad_nbytes] == []
    batch, found = file.make_batch(4), []
    judged = {} if batch.target is None else {"target": batch.target}
    for each in (pipe, autopipe.split(model, 1, args, kwargs)):
        engine = each.engine(n_microbatches=2, seed=0)
        loss = engine.step(*batch.args, loss_fn=file.loss, **judged, **batch.kwargs).loss
        found.append((loss, gradients_of(model)))
        model.zero_grad()
    assert_bitwise(*found)
