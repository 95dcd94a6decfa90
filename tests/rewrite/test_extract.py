"""Stages hold the user's own modules, cross what they must, and compute what the model computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopipe.errors import PartitionError
from autopipe.ir.structure import tensors_in
from autopipe.rewrite import readable, rewrite
from autopipe.trace import capture
from models import NAMES
from tests.rewrite.cutting import by_fqn, evenly, legal, run, split
from tests.shallow import load


class Worked(nn.Module):
    """The worked example of the design: a skip over stage 1, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.block_a, self.block_b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        e = self.embed(ids)
        out: Tensor = self.head(self.block_b(self.block_a(e)) + e)
        return out


IDS = torch.arange(8).reshape(4, 2)
CUT = {"embed": 0, "block_a": 0, "block_b": 1, "head": 2}


def cut_worked(model: nn.Module):
    traced = capture(model, (IDS,))
    stage_of = by_fqn(traced, CUT)
    stage_of["add"] = 2
    return rewrite(traced, model, stage_of, 3)


def test_the_worked_example_has_the_ports_of_the_design():
    staged = cut_worked(Worked())
    sends = [[(port.value, port.peer) for port in stage.send] for stage in staged.stages]
    receives = [[(port.value, port.peer) for port in stage.recv] for stage in staged.stages]
    assert sends == [[("embed", 2), ("block_a", 1)], [("block_b", 2)], []]
    assert receives == [[], [("block_a", 0)], [("embed", 0), ("block_b", 1)]]
    assert [(tied.fqn, tied.owner, tied.replicas) for tied in staged.tied] == [("embed.weight", 0, (2,))]
    assert all(port.carries_grad for stage in staged.stages for port in stage.send)


def test_stages_hold_the_users_own_modules_and_names():
    model = Worked()
    staged = cut_worked(model)
    assert staged.stages[0].module.get_submodule("embed") is model.embed
    assert staged.stages[2].module.get_submodule("head") is model.head
    assert list(staged.stages[0].module.state_dict()) == [
        "embed.weight", "block_a.weight", "block_a.bias"
    ]  # fmt: skip
    assert staged.stages[1].fqns == ("block_b",)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_gives_the_same_output_bit_by_bit_under_its_own_names(name: str):
    torch.manual_seed(0)
    file = load(name)
    model = file.build().eval()
    args, kwargs = file.example()
    traced = capture(model, args, kwargs)
    expected = model(*args, **kwargs)
    for n_stages in (1, 2, 3, 4):
        staged = rewrite(traced, model, evenly(traced, n_stages), n_stages)
        found = run(staged, *args, **kwargs)
        assert type(found) is type(expected)
        for ours, theirs in zip(tensors_in(found), tensors_in(expected), strict=True):
            assert torch.equal(ours, theirs)
        keys = {key for stage in staged.stages for key in stage.module.state_dict()}
        assert keys <= set(model.state_dict())
        assert {fqn for fqn, _ in model.named_parameters()} <= staged.parameters_of.keys()


class Writes(nn.Module):
    """Modifies in place what comes over a cut; the value before the write has a reader of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        z = y.sum()
        y.mul_(2)
        y += 1
        out: Tensor = self.b(F.relu_(y)) + z
        return out


def test_in_place_right_after_a_cut_leaves_the_senders_tensor_alone():
    torch.manual_seed(0)
    model, x = Writes(), torch.randn(3, 4)
    traced = capture(model, (x,))
    names = [node.name for node in traced.compute_nodes()]
    model(x).sum().backward()
    expected = model.a.weight.grad.clone()
    for place in range(1, len(names)):
        model.zero_grad()
        wish = {name: int(i >= place) for i, name in enumerate(names)}
        staged = rewrite(traced, model, legal(traced, wish), 2)
        out = run(staged, x)
        assert torch.equal(out, model(x))
        out.sum().backward()
        assert torch.equal(model.a.weight.grad, expected)


class Outputs(nn.Module):
    """An early output, one that is an input, a parameter, a size and a constant; a stage without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.zeros(4), persistent=False)
        self.table = torch.arange(4.0)

    def forward(self, x: Tensor, late: Tensor, *, flag: str = "on") -> dict[str, object]:
        early = self.a(x)
        out = self.b(early * self.scale + self.shift + self.table) + late
        mask = (early > 0).long()
        return {"out": out * mask, "early": early, "mask": mask, "x": x, "scale": self.scale,
                "n": x.shape[0], "flag": flag}  # fmt: skip


def test_outputs_of_every_kind_come_back_as_the_model_returns_them():
    model, x, late = Outputs(), torch.randn(3, 4), torch.randn(3, 4)
    traced = capture(model, (x, late))
    expected = model(x, late)
    for n_stages in (1, 2, 3, 5):
        staged = rewrite(traced, model, evenly(traced, n_stages), n_stages)
        found = run(staged, x, late)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            same = torch.equal(found[name], value) if isinstance(value, Tensor) else found[name] == value
            assert same, name
        assert found["scale"].requires_grad
        assert run(staged, torch.randn(7, 4), torch.randn(7, 4))["n"] == 7


def test_an_output_that_only_the_user_reads_is_marked_and_integers_carry_no_gradient():
    model, x = Outputs(), torch.randn(3, 4)
    traced = capture(model, (x, x))
    stage_of = by_fqn(traced, {"a": 0, "b": 1})
    staged = rewrite(traced, model, stage_of, 3)
    ports = {port.value: port for port in staged.stages[2].recv}
    assert ports["a"].output_only
    assert ports["a"].carries_grad
    assert not any(port.carries_grad for port in ports.values() if not port.spec.is_differentiable)
    assert staged.stages[2].arguments == () or all(a.kind != "recv" for a in staged.stages[2].arguments)


def test_replacing_a_buffer_of_the_model_replaces_it_in_its_stage():
    model, x = Outputs(), torch.randn(3, 4)
    staged = split(model, (x, x), n_stages=2)
    model._buffers["shift"] = torch.full((4,), 5.0)
    assert torch.equal(run(staged, x, x)["out"], model(x, x)["out"])
    assert all("shift" not in stage.module.state_dict() for stage in staged.stages)
    assert sum("scale" in stage.module.state_dict() for stage in staged.stages) >= 1


def test_a_stage_may_be_empty():
    model, x = Worked(), IDS
    traced = capture(model, (x,))
    stage_of = {node.name: 2 for node in traced.compute_nodes()}
    staged = rewrite(traced, model, stage_of, 4)
    assert torch.equal(run(staged, x), model(x))
    assert [len(stage.fqns) for stage in staged.stages] == [0, 0, 4, 0]


def test_values_that_flow_backwards_are_named():
    traced = capture(Worked(), (IDS,))
    stage_of = evenly(traced, 2) | {"embed": 1, "block_a": 0}
    with pytest.raises(PartitionError, match="stage 0 reads embed, which stage 1 makes"):
        rewrite(traced, Worked(), stage_of, 2)


def test_a_stage_out_of_range_is_named():
    traced = capture(Worked(), (IDS,))
    with pytest.raises(PartitionError, match="head is in stage 2, but there are 2 stages"):
        rewrite(traced, Worked(), evenly(traced, 2) | {"head": 2}, 2)


class Chunks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return a + b


def test_a_tuple_cannot_be_cut_from_what_takes_it_apart():
    x = torch.ones(2, 4)
    traced = capture(Chunks(), (x,))
    stage_of = {node.name: 0 if node.name == "chunk" else 1 for node in traced.compute_nodes()}
    with pytest.raises(PartitionError, match="chunk cannot cross from stage 0 to stage 1: it is no tensor"):
        rewrite(traced, Chunks(), stage_of, 2)


class WritesAside(nn.Module):
    """Adds to its first argument, and returns something else."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        return y * 2


class ReadsAfterWrite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.aside, self.b = nn.Linear(3, 3), WritesAside(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        y = self.aside(h, x)
        out: Tensor = self.b(h) + y
        return out


def test_a_write_is_never_cut_from_who_reads_the_memory_afterwards():
    torch.manual_seed(0)
    model, x = ReadsAfterWrite(), torch.randn(4, 3)
    traced = capture(model, (x,), opaque=lambda fqn: fqn == "aside")
    names = [node.name for node in traced.compute_nodes()]
    n_right = 0
    for place in range(1, len(names)):
        wish = legal(traced, {name: int(i >= place) for i, name in enumerate(names)})
        try:
            staged = rewrite(traced, model, wish, 2)
        except PartitionError as error:
            assert "after aside wrote it, in another stage" in error.what  # noqa: PT017
            continue
        n_right += 1
        assert torch.equal(run(staged, x), model(x))
    assert n_right >= 2


def test_readable_shows_ports_and_code_of_every_stage():
    text = readable(cut_worked(Worked()))
    assert (
        "# stage 1\n#   recv block_a f32[B, 2, 6] <- stage 0" in text or "# stage 1\n#   recv block_a" in text
    )
    assert "self.block_b(block_a)" in text
    assert text.count("def forward") == 3
