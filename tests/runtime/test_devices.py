"""Stages on several devices: placement, messages, replicas of what is tied.

"cpu" and "cpu:0" are the same memory to torch, but two devices to the engine: replicas are tested so.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopipe.errors import ArgumentError
from autopipe.ir.schedule import Action
from autopipe.runtime.local import LocalTransport
from autopipe.runtime.placement import place
from tests.rewrite.cutting import split
from tests.runtime.training import assert_same, engine_of, gradients, plain_step

IDS = torch.arange(12).reshape(6, 2) % 7


class Tied(nn.Module):
    """One weight three times: an embedding, another module's, and bare in between; and a tied buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.mid = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.full((5,), 0.5))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.shift
        x = self.mid(x) + F.linear(x, self.embed.weight).mean(-1, keepdim=True)
        out: Tensor = self.head(x + self.shift)
        return out


STAGES = {"embed": 0, "mid": 1, "head": 2}


def judge(out: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(out.flatten(0, 1), target.flatten())


def train(model: nn.Module, devices: list[str] | None, n_steps: int = 3):
    engine = engine_of(model, (IDS,), n_stages=3, stages=STAGES, n_microbatches=2, devices=devices)
    optimizer = torch.optim.SGD(engine.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(n_steps):
        optimizer.zero_grad()
        losses.append(engine.step(IDS, target=IDS, loss_fn=judge).loss)
        optimizer.step()
    return engine, losses


@pytest.mark.parametrize("devices", [None, ["cpu"] * 3, ["cpu", "cpu:0", "cpu"], ["cpu", "cpu", "cpu:0"]])
def test_tied_tensors_train_as_in_the_plain_loop(devices: list[str] | None):
    torch.manual_seed(0)
    model = Tied()
    plain = copy.deepcopy(model)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    parameters = dict(model.named_parameters())
    engine, losses = train(model, devices)
    for loss in losses:
        optimizer.zero_grad()
        rows = [((part,), {}, part) for part in IDS.tensor_split(2)]
        torch.testing.assert_close(loss, plain_step(plain, rows, judge, [0.5, 0.5]))
        optimizer.step()
    assert_same(gradients(model), gradients(plain), rtol=1e-5, atol=1e-6)
    assert_same(model.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)
    assert all(parameters[name] is tensor for name, tensor in model.named_parameters())
    assert model.head.weight is model.embed.weight
    assert [name for name, _ in engine.named_parameters()] == [name for name, _ in plain.named_parameters()]
    torch.testing.assert_close(engine.forward(IDS), plain(IDS).detach())


def test_a_replica_is_seen_by_the_leaf_and_its_hooks_only_while_the_stage_runs():
    torch.manual_seed(0)
    model = Tied()
    seen: list[bool] = []
    model.head.register_forward_hook(lambda leaf, _args, _out: seen.append(leaf.weight is model.embed.weight))
    engine, _ = train(model, ["cpu", "cpu", "cpu:0"], n_steps=1)
    assert seen == [False, False]
    assert model.head.weight is model.embed.weight
    assert "head.weight" in engine.state_dict()
    engine.forward(IDS)
    with torch.no_grad():
        model.embed.weight.zero_()
    expected = model(IDS).detach()
    torch.testing.assert_close(engine.forward(IDS), expected)


class Devices(nn.Module):
    """Makes tensors on the device of its input, and reads a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.table = torch.arange(4.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        position = torch.arange(y.shape[-1], device=y.device, dtype=y.dtype)
        out: Tensor = self.b(y + position) + torch.zeros(4, device=y.device) + self.table
        return out


def test_a_stage_makes_its_tensors_where_it_is_placed():
    model = Devices()
    staged = split(model, (torch.ones(2, 4),), n_stages=2, stages={"a": 0, "b": 1})
    before = [stage.module.code for stage in staged.stages]
    place(staged, [torch.device("cpu"), torch.device("meta")])
    codes = [stage.module.code for stage in staged.stages]
    assert codes[0] == before[0]
    assert any("device(type='meta')" in code for code in codes[1:])
    assert not any("device(type='cpu')" in code for code in codes[1:])
    assert {tensor.device.type for tensor in model.b.parameters()} == {"meta"}


def test_a_meta_model_cannot_be_placed():
    with torch.device("meta"):
        model = Devices()
    staged = split(model, (torch.ones(2, 4),), n_stages=2, stages={"a": 0, "b": 1})
    with pytest.raises(ArgumentError, match=r"b\.\w+ of stage 1 is on the meta device"):
        place(staged, [torch.device("cpu")] * 2)


@pytest.mark.parametrize(
    ("devices", "text"),
    [(["cpu"], "1 devices for 2 stages"), (["cpu", "cuda:77"], "device cuda:77 is not there")],
)
def test_devices_are_checked_before_anything_moves(devices: list[str], text: str):
    with pytest.raises(ArgumentError, match=text):
        engine_of(Devices(), (torch.ones(2, 4),), n_stages=2, devices=devices)


def test_a_message_arrives_as_a_leaf_that_requires_what_was_sent():
    transport = LocalTransport([torch.device("cpu")] * 2)
    send, receive = Action.parse("0SEND_F1>1:h"), Action.parse("1RECV_F1<0:h")
    assert not transport.is_ready(receive)
    value = torch.ones(2, requires_grad=True) * 2
    transport.send(send, value)
    assert transport.is_ready(receive)
    arrived = transport.receive(receive)
    assert arrived.is_leaf
    assert arrived.requires_grad
    assert arrived.data_ptr() == value.data_ptr()
    assert not transport.is_ready(receive)
    transport.send(Action.parse("1SEND_B1>0:h"), None)
    assert transport.receive(Action.parse("0RECV_B1<1:h")) is None
    transport.send(send, value)
    transport.clear()
    assert not transport.is_ready(receive)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("devices", [["cuda:0"] * 3, ["cpu", "cuda:0", "cpu"], ["cuda:0", "cpu", "cuda:0"]])
def test_stages_on_cuda_train_as_on_the_cpu(devices: list[str]):
    torch.manual_seed(0)
    model = Tied()
    plain = copy.deepcopy(model)
    _, losses = train(model, devices)
    _, expected = train(plain, None)
    for ours, theirs in zip(losses, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-4, atol=1e-5)
    found = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    assert_same(found, plain.state_dict(), rtol=1e-4, atol=1e-5)
