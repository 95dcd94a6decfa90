"""The engine as an object: failures, guards, schedules, timeline, clipping, closing."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from autopipe.errors import ArgumentError, EngineError, PlanMismatchError
from autopipe.ir.schedule import Op, Schedule
from autopipe.runtime.interpreter import Interpreter
from autopipe.runtime.local import LocalTransport
from autopipe.runtime.stopwatch import Stopwatch
from autopipe.schedule import build, in_flight
from tests.runtime.training import assert_same, engine_of, gradients

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Fragile(nn.Module):
    """Has dropout, and a region without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.a(x))
        with torch.no_grad():
            z = self.b(y)
        out: Tensor = self.c(y + z)
        return out


def square(out: Tensor) -> Tensor:
    return out.square().mean()


def fragile(**options: object):
    torch.manual_seed(0)
    model = Fragile()
    stages = {"a": 0, "drop": 0, "b": 1, "c": 2}
    return model, engine_of(model, (X,), n_stages=3, stages=stages, n_microbatches=3, seed=1, **options)


def break_once(model: Fragile) -> None:
    """Let the last leaf raise in the second microbatch of the next step."""
    count = [0]

    def hook(_module: nn.Module, _args: object) -> None:
        count[0] += 1
        if count[0] == 2:
            raise ZeroDivisionError("pop")

    model.c.register_forward_pre_hook(hook)


@pytest.mark.parametrize("devices", [None, ["cpu", "cpu", "cpu:0"]])
def test_a_stage_that_raises_is_named_and_the_next_step_runs(devices: list[str] | None):
    model, engine = fragile(devices=devices)
    healthy, reference = fragile()
    break_once(model)
    stream = torch.get_rng_state()
    with pytest.raises(EngineError) as caught:
        engine.step(X, loss_fn=square)
    assert "stage 2 failed in 2F1" in str(caught.value)
    assert "microbatch 1, c at" in str(caught.value)
    assert "test_engine.py" in str(caught.value)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.is_grad_enabled()
    model.zero_grad()
    other = X.flip(0) * 2  # a message left over from the failed step would show
    found, expected = engine.step(other, loss_fn=square), reference.step(other, loss_fn=square)
    assert torch.equal(found.loss, expected.loss)
    assert_same(gradients(model), gradients(healthy), rtol=0, atol=0)


def test_a_failing_backward_and_a_failing_loss_are_named():
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            raise ZeroDivisionError("back")

    _, engine = fragile()
    with pytest.raises(EngineError, match=r"stage 2 failed in 2B0"):
        engine.step(X, loss_fn=lambda out: Bad.apply(out).sum())
    with pytest.raises(EngineError, match=r"stage 2 failed in 2F0"):
        engine.step(X, loss_fn=lambda out: 1 / 0)
    engine.step(X, loss_fn=square)


def test_changing_requires_grad_after_the_engine_was_built_is_an_error():
    model, engine = fragile()
    engine.step(X, loss_fn=square)
    model.a.weight.requires_grad_(False)
    with pytest.raises(PlanMismatchError, match=r"requires_grad of a\.weight changed"):
        engine.step(X, loss_fn=square)
    model.a.weight.requires_grad_(True)
    engine.step(X, loss_fn=square)


def test_a_closed_engine_says_so():
    _, engine = fragile()
    with engine as same:
        assert same is engine
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.step(X, loss_fn=square)


def test_the_schedule_is_rebuilt_for_fewer_microbatches_and_own_ones_are_refused():
    _, engine = fragile()
    assert engine.schedule == build("1f1b", 3, 3)
    engine.step(X[:2], loss_fn=square)
    assert engine.schedule.n_microbatches == 2
    own = Schedule.from_rows("own", ["0F0 0B0", "1F0 1B0", "2F0 2B0"])
    own_engine(own).step(X, loss_fn=square)
    with pytest.raises(ArgumentError, match="was given for 3 stages and 2 microbatches"):
        own_engine(own, n_microbatches=2)


def own_engine(schedule: Schedule, **options: object):
    return engine_of(Fragile(), (X,), n_stages=3, schedule=schedule, **options)


def test_stages_may_share_ranks():
    torch.manual_seed(0)
    one, two = Fragile(), Fragile()
    two.load_state_dict(one.state_dict())
    engine_of(one, (X,), n_stages=4, n_microbatches=3, seed=1).step(X, loss_fn=square)
    shared = engine_of(two, (X,), n_stages=4, n_ranks=2, n_microbatches=3, seed=1)
    shared.step(X, loss_fn=square)
    assert shared.schedule.n_ranks == 2
    assert_same(gradients(two), gradients(one), rtol=0, atol=0)


def test_the_timeline_has_every_action_of_the_last_step():
    _, engine = fragile()
    with pytest.raises(EngineError, match="has not run a step yet"):
        engine.timeline()
    engine.step(X, loss_fn=square)
    timeline = engine.timeline()
    timeline.verify()
    assert sorted(span.label for span in timeline.spans) == sorted(
        str(action) for row in engine.schedule.rows for action in row
    )
    assert timeline.makespan_ms > 0


def test_activations_are_freed_as_soon_as_their_backward_is_done():
    model, engine = fragile(schedule="1f1b")
    alive: list[weakref.ref[Tensor]] = []
    most: list[int] = []

    def note(_module: nn.Module, _args: object, out: Tensor) -> None:
        alive.append(weakref.ref(out))
        most.append(sum(ref() is not None for ref in alive))

    model.a.register_forward_hook(note)
    gc.disable()
    try:
        engine.step(X.repeat(4, 1), loss_fn=square)
    finally:
        gc.enable()
    computes = [a for row in engine.schedule.rows for a in row if not a.op.is_comm]
    assert sum(a.op is Op.F and a.stage == 0 for a in computes) == len(alive) == 3
    assert max(most) <= max(in_flight(build("1f1b", 3, 3)))
    assert sum(ref() is not None for ref in alive) == 0


def test_gradients_are_clipped_by_their_norm_together():
    model, engine = fragile()
    engine.step(X, loss_fn=lambda out: square(out) * 100)
    before = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    found = engine.clip_grad_norm_(0.5)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(found, before)
    torch.testing.assert_close(after, torch.tensor(0.5))


def test_train_and_eval_are_the_models_own():
    model, engine = fragile()
    engine.eval()
    assert not model.training
    torch.testing.assert_close(engine.forward(X), model(X).detach())
    assert engine.train() is engine
    assert model.drop.training
    copy.deepcopy(model)


def test_rows_that_wait_for_each_other_are_shown():
    schedule = Schedule.from_rows("stuck", ["0RECV_B0<1:h", "1RECV_F0<0:h"])
    with pytest.raises(EngineError, match="every rank waits for another") as caught:
        Interpreter({}, LocalTransport([torch.device("cpu")] * 2), [], Stopwatch()).run(schedule)
    assert "<-- ERROR HERE" in str(caught.value)
