"""What the doctor finds in models of many kinds: what, in which line, and the smallest change that helps."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autopipe.cli.diagnosis import Finding, findings
from autopipe.trace import capture

X = torch.ones(4, 6, 8)


class Model(nn.Module):
    """Two linears and a config for those below."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 8)
        self.config = SimpleNamespace(kind=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)))


class Looping(Model):
    """Counts a length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x[:, 0]
        for step in range(x.shape[1]):
            state = torch.tanh(self.first(state) + x[:, step])
        return self.last(state)


class Conditional(Model):
    """Takes another way for short inputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > 4:
            x = self.first(x)
        return self.last(x)


class OfBatch(Model):
    """Makes a number of the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = [0.5] * int(x.shape[0])
        return self.last(self.first(x) * torch.tensor(weights)[:, None, None])


class Writing(Model):
    """Writes through a view."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(x) * 2
        hidden[:, 0] += 1
        return self.last(hidden)


class Setting(Model):
    """Sets what its config says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.config.kind is None:
            self.config.kind = "regression"
        return super().forward(x)


class Gate(nn.Module):
    """Branches on data."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x.sum((1, 2)) > 0).nonzero()
        return self.inner(x) if len(rows) else x


class Dropping(nn.Module):
    """Leaves out layers at random."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if torch.rand([]) < 0.1:
                continue
            x = layer(x)
        return x


class Drawing(nn.Module):
    """Draws from numpy's stream by way of a backward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        x.register_hook(lambda grad: grad * 2)
        return x


def holding(module: type[nn.Module]) -> Any:
    return lambda: nn.Sequential(nn.Linear(8, 8), module(), nn.Linear(8, 8))


EXPECTED: dict[str, tuple[Any, type, str, str, str, str]] = {
    # the model, whose line is to blame, kind and subject, the line, and a word of the remedy
    "a loop over a length": (
        Looping,
        Looping,
        "fixed size",
        "L6 is 6",
        "in range(x.shape[1])",
        "loop or an int",
    ),
    "a branch on a size": (Conditional, Conditional, "condition", "L6 > 4", "if x.shape[1] > 4", ""),
    "a number of the batch": (
        OfBatch,
        OfBatch,
        "fixed size",
        "the batch",
        "int(x.shape[0])",
        "no Python number",
    ),
    "a write through a view": (Writing, Writing, "one stage", "mul", "test_diagnosis.py", "x = x + y"),
    "an attribute": (Setting, Setting, "sets", "config.kind = 'regression'", "", ""),
    "a branch on data": (holding(Gate), Gate, "opaque", "1", "if len(rows) else x", "torch.where"),
    "layers at random": (holding(Dropping), Dropping, "opaque", "1", "if torch.rand([]) < 0.1", "layerdrop"),
    "a hook on a tensor": (holding(Drawing), Drawing, "opaque", "1", "x.register_hook", "change that line"),
}


@pytest.mark.parametrize(
    ("build", "blamed", "kind", "subject", "line", "remedy"), EXPECTED.values(), ids=EXPECTED.keys()
)
def test_findings_name_the_line_and_the_change(
    build: Any, blamed: type, kind: str, subject: str, line: str, remedy: str
) -> None:
    found = [f for f in findings(capture(build(), (X,))) if f.kind == kind and subject in f.subject]
    assert found, kind
    assert line in found[0].where
    assert remedy in found[0].remedy
    if line and line in inspect.getsource(blamed):
        _, first = inspect.getsourcelines(blamed)
        number = int(found[0].where.partition(".py:")[2].partition(" ")[0])
        assert first < number < first + len(inspect.getsource(blamed).splitlines())


def test_a_model_that_is_seen_through_has_no_findings() -> None:
    assert findings(capture(Model(), (X,))) == []


def test_a_finding_prints_what_where_and_what_to_do() -> None:
    finding = Finding("opaque", "router", "one node", "at model.py:3", "torch.where")
    assert str(finding) == " opaque: router\n   one node\n   at model.py:3\n   Try: torch.where"
