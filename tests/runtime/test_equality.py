"""A step gives the loss, the output and the gradients of the plain loop over the same microbatches."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopipe.ir.structure import Structure
from autopipe.rewrite.batch import guessed_dims
from autopipe.rewrite.batch import split as split_batch
from tests.runtime.training import assert_same, engine_of, gradients, plain_step
from tests.shallow import load


def cut(args: Any, kwargs: Any, target: Any, n: int) -> tuple[list[Any], list[float]]:
    structure, tensors = Structure.of((args, kwargs, target))
    rows = split_batch(tensors, guessed_dims(tensors), n)
    return [structure.fill(row) for row in rows], [len(row[0]) / len(tensors[0]) for row in rows]


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
@pytest.mark.parametrize("name", ["gpt", "unet", "encoder_decoder", "mixture_of_experts"])
def test_models_train_as_in_a_plain_loop(name: str, schedule: str):
    torch.manual_seed(0)
    file = load(name)
    model = file.build().eval()
    plain = copy.deepcopy(model)
    batch = file.make_batch(5)
    engine = engine_of(model, *file.example(), n_stages=3, schedule=schedule, n_microbatches=2)
    found = engine.step(*batch.args, target=batch.target, loss_fn=file.loss, **batch.kwargs)
    rows, weights = cut(batch.args, batch.kwargs, batch.target, 2)
    expected = plain_step(plain, rows, file.loss, weights)
    assert torch.equal(found.loss, expected)
    assert found.output is None
    assert_same(gradients(model), gradients(plain), rtol=1e-5, atol=1e-6)


class Tangle(nn.Module):
    """A skip over two stages, two later readers of a value, a late input, early outputs, ints, sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
        self.embed = nn.Embedding(5, 6)
        self.unused = nn.Linear(6, 6)

    def forward(self, x: Tensor, ids: Tensor, late: Tensor | None = None) -> dict[str, Any]:
        start = self.layers[0](x) + self.embed(ids)
        mask = ids > 1
        one = self.layers[1](start).relu()
        two = self.layers[2](one).relu_() + start
        three = self.layers[3](two) * mask.unsqueeze(-1) + one / x.shape[0]
        return {"out": three if late is None else three + late, "aux": one.square().mean(), "ids": ids + 1}


TANGLED = {"layers.0": 0, "embed": 0, "layers.1": 1, "layers.2": 2, "layers.3": 3}


def tangled(n_samples: int) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n_samples, 6, generator=generator)
    ids = torch.randint(0, 5, (n_samples,), generator=generator)
    return (x, ids), {"late": torch.randn(n_samples, 6, generator=generator)}, torch.randn(n_samples, 6)


def judge(output: dict[str, Tensor], target: Tensor) -> Tensor:
    return F.mse_loss(output["out"], target) + 0.1 * output["aux"]


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
@pytest.mark.parametrize(("n_samples", "n_microbatches"), [(4, 4), (7, 3), (2, 8), (3, 1)])
def test_any_dataflow_ragged_batches_and_fewer_microbatches_than_stages(
    schedule: str, n_samples: int, n_microbatches: int
):
    torch.manual_seed(0)
    model = Tangle()
    plain = copy.deepcopy(model)
    args, kwargs, target = tangled(n_samples)
    engine = engine_of(
        model, args, kwargs, n_stages=4, stages=TANGLED, schedule=schedule, n_microbatches=n_microbatches
    )
    for _ in range(2):  # gradients accumulate
        found = engine.step(*args, target=target, loss_fn=judge, return_output=True, **kwargs)
        rows, weights = cut(args, kwargs, target, min(n_samples, n_microbatches))
        expected = plain_step(plain, rows, judge, weights)
    assert len(rows) == engine.schedule.n_microbatches
    torch.testing.assert_close(found.loss, expected)
    assert_same(gradients(model), gradients(plain), rtol=1e-5, atol=1e-6)
    assert model.unused.weight.grad is None
    with torch.no_grad():
        outputs = [plain(*row[0], **row[1]) for row in rows]
    assert torch.equal(found.output["out"], torch.cat([out["out"] for out in outputs]))
    assert torch.equal(found.output["ids"], args[1] + 1)
    torch.testing.assert_close(
        found.output["aux"], sum(out["aux"] * w for out, w in zip(outputs, weights, strict=True))
    )
    assert not found.output["out"].requires_grad


def test_one_microbatch_is_bitwise_the_unsplit_step():
    torch.manual_seed(0)
    model = Tangle()
    plain = copy.deepcopy(model)
    args, kwargs, target = tangled(4)
    engine = engine_of(model, args, kwargs, n_stages=4, stages=TANGLED, n_microbatches=1)
    found = engine.step(*args, target=target, loss_fn=judge, **kwargs)
    loss = judge(plain(*args, **kwargs), target)
    loss.backward()
    assert torch.equal(found.loss, loss.detach())
    assert_same(gradients(model), gradients(plain), rtol=0, atol=0)


def test_arguments_may_come_and_go_between_steps():
    torch.manual_seed(0)
    model = Tangle()
    plain = copy.deepcopy(model)
    args, kwargs, target = tangled(4)
    engine = engine_of(model, args, kwargs, n_stages=4, stages=TANGLED, n_microbatches=2)
    engine.step(*args, target=target, loss_fn=judge, **kwargs)
    engine.step(*args, target=target, loss_fn=judge)
    for given in (kwargs, {}):
        rows, weights = cut(args, given, target, 2)
        plain_step(plain, rows, judge, weights)
    assert_same(gradients(model), gradients(plain), rtol=1e-5, atol=1e-6)


def test_inputs_that_require_a_gradient_get_it_through_the_users_own_graph():
    torch.manual_seed(0)
    model = Tangle()
    plain = copy.deepcopy(model)
    args, kwargs, target = tangled(4)
    base = torch.randn(4, 6, requires_grad=True)
    engine = engine_of(model, args, kwargs, n_stages=4, stages=TANGLED, n_microbatches=2)
    engine.step(base * 3, args[1], late=kwargs["late"].requires_grad_(), target=target, loss_fn=judge)
    found, found_late = base.grad.clone(), kwargs["late"].grad.clone()
    base.grad = kwargs["late"].grad = None
    rows, weights = cut((base * 3, args[1]), kwargs, target, 2)
    total = sum(judge(plain(*a, **k), t) * w for (a, k, t), w in zip(rows, weights, strict=True))
    total.backward()
    torch.testing.assert_close(found, base.grad)
    torch.testing.assert_close(found_late, kwargs["late"].grad)


def test_frozen_parameters_get_no_gradient_and_stop_it():
    torch.manual_seed(0)
    model = Tangle()
    model.layers[0].requires_grad_(False)
    model.embed.requires_grad_(False)
    plain = copy.deepcopy(model)
    args, kwargs, target = tangled(4)
    engine = engine_of(model, args, kwargs, n_stages=4, stages=TANGLED, n_microbatches=2)
    engine.step(*args, target=target, loss_fn=judge, **kwargs)
    rows, weights = cut(args, kwargs, target, 2)
    plain_step(plain, rows, judge, weights)
    assert_same(gradients(model), gradients(plain), rtol=1e-5, atol=1e-6)
    back = [a for row in engine.schedule.rows for a in row if a.op == "RECV" and a.carries == "B"]
    assert back
    assert all(action.stage > 0 for action in back)


def test_forward_equals_the_model_and_keeps_nothing():
    torch.manual_seed(0)
    model = Tangle()
    args, kwargs, _ = tangled(5)
    engine = engine_of(model, args, kwargs, n_stages=3, n_microbatches=2)
    found = engine.forward(*args, **kwargs)
    rows, _ = cut(args, kwargs, None, 2)
    assert torch.equal(found["out"], torch.cat([model(*a, **k)["out"].detach() for a, k, _ in rows]))
    assert not found["out"].requires_grad
    assert not any(action.carries == "B" for row in engine.schedule.rows for action in row)


def test_batchnorm_buffers_and_optimizer_steps_follow_the_plain_loop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 2))
    plain = copy.deepcopy(model)
    ours = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    engine = engine_of(model, (torch.randn(2, 4),), n_stages=3, n_microbatches=2)
    for step in range(5):
        x, target = torch.randn(6, 4), torch.randn(6, 2)
        found = engine.step(x, target=target, loss_fn=F.mse_loss)
        rows, weights = cut((x,), {}, target, 2)
        expected = plain_step(plain, rows, F.mse_loss, weights)
        assert torch.equal(found.loss, expected), step
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    assert_same(model.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)
    assert model[1].num_batches_tracked == 10


class Fan(nn.Module):
    """A value with a reader in each of four later stages: sums of more than two depend on their order."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        first = self.layers[0](x)
        x = self.layers[1](first).tanh()
        for layer in self.layers[2:]:
            x = layer(x).tanh() * first
        return x


def test_gradients_of_many_readers_are_added_in_the_order_of_autograd():
    torch.manual_seed(0)
    model = Fan()
    plain = copy.deepcopy(model)
    x = torch.randn(7, 16)
    stages = {f"layers.{index}": index for index in range(5)}
    engine = engine_of(model, (x,), n_stages=5, stages=stages, n_microbatches=1)
    engine.step(x, loss_fn=lambda out: out.square().mean())
    plain(x).square().mean().backward()
    sends = [a for row in engine.schedule.rows for a in row if a.op == "SEND" and a.value == "layers_0"]
    assert {a.peer for a in sends if a.carries == "F"} == {1, 2, 3, 4}
    for index in (4, 3, 2, 1, 0):
        assert torch.equal(model.layers[index].weight.grad, plain.layers[index].weight.grad), index


class WritesAfterCut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y.mul_(2)
        y += 1
        out: Tensor = self.b(F.relu_(y))
        return out


def test_a_received_value_may_be_written_wherever_the_cut_is():
    torch.manual_seed(0)
    model = WritesAfterCut()
    plain = copy.deepcopy(model)
    x = torch.randn(4, 4)
    engine = engine_of(model, (x,), n_stages=5, n_microbatches=2)
    engine.step(x, loss_fn=lambda out: out.square().mean())
    rows, weights = cut((x,), {}, None, 2)
    plain_step(plain, rows, lambda out, _: out.square().mean(), weights)
    assert_same(gradients(model), gradients(plain), rtol=1e-6, atol=1e-7)


class MixedPrecision(nn.Module):
    """Keeps one layer out of autocast; its backward must stay out of it too."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.full, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.low(x)
        with torch.autocast("cpu", enabled=False):
            y = self.full(y.float())
        out: Tensor = self.last(y)
        return out


def test_autocast_around_a_step_gives_what_it_gives_unsplit():
    torch.manual_seed(0)
    model = MixedPrecision()
    plain = copy.deepcopy(model)
    x, target = torch.randn(4, 4), torch.randn(4, 2)
    with torch.autocast("cpu", torch.bfloat16):
        engine = engine_of(model, (x,), n_stages=2, n_microbatches=1)
        found = engine.step(x, target=target, loss_fn=lambda out, t: F.mse_loss(out.float(), t))
        loss = F.mse_loss(plain(x).float(), target)
    loss.backward()
    assert torch.equal(found.loss, loss.detach())
    assert_same(gradients(model), gradients(plain), rtol=0, atol=0)
