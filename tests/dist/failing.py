"""Cases for a crew: a small model of three stages, in which anything can be made to fail anywhere."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import autopipe
from autopipe.ir.schedule import Action
from autopipe.pipeline import Pipeline
from autopipe.runtime import handshake

N_MICROBATCHES = 4
TIMEOUT_S = 3.0

_trap: dict[str, Any] = {}
_calls: Counter[tuple[str, int]] = Counter()


def trip(kind: str, stage: int) -> None:
    """Do what was set for this forward or backward, if anything was."""
    if _trap.get("at") == (kind, stage, _calls[kind, stage]):
        _trap["fire"]()
    _calls[kind, stage] += 1


class _Trip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, stage: int) -> Tensor:
        ctx.stage = stage
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        trip("B", ctx.stage)
        return gradient, None


class Layer(nn.Linear):
    """A leaf that may fail."""

    def __init__(self, stage: int) -> None:
        super().__init__(4, 4)
        self.stage = stage

    def forward(self, x: Tensor) -> Tensor:
        trip("F", self.stage)
        found: Tensor = _Trip.apply(super().forward(x), self.stage)
        return found


class Three(nn.Module):
    """Stage 2 reads a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = Layer(0), Layer(1), Layer(2)

    def forward(self, x: Tensor, late: Tensor) -> Tensor:
        found: Tensor = self.c(self.b(self.a(x).relu()).relu() + late)
        return found


X, LATE = torch.arange(32.0).reshape(8, 4) / 32, torch.ones(8, 4)


def judge(output: Tensor) -> Tensor:
    return output.square().mean()


@cache
def split(
    n_ranks: int = 3, frozen: str = "", pins: tuple[int, ...] = (0, 1, 2), cost: str = "roofline"
) -> Pipeline:
    torch.manual_seed(0)
    model = Three()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != frozen)
    return autopipe.split(
        model,
        3,
        (X[:2], LATE[:2]),
        n_ranks=n_ranks,
        n_microbatches=N_MICROBATCHES,
        cost=cost,
        pin=dict(zip("abc", pins, strict=True)),
    )


def prepare() -> None:
    split().engine().step(X, LATE, loss_fn=judge)
    split().engine().forward(X, LATE)
    split().model.zero_grad()


_groups: dict[tuple[int, ...], Any] = {}


def make_groups(_rank: int, *groups: tuple[int, ...]) -> None:
    """Make the user's groups, on every rank in the same order."""
    for ranks in groups:
        _groups[ranks] = dist.new_group(list(ranks))


@cache
def engine_of(ranks: tuple[int, ...]) -> Any:
    return split().engine(group=_groups[ranks], timeout_s=TIMEOUT_S, seed=0)


def boom() -> None:
    raise ValueError("boom")


def interrupt() -> None:
    raise KeyboardInterrupt


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stick() -> None:
    threading.Event().wait(1.5 * TIMEOUT_S)


FIRES: dict[str, Callable[[], None]] = {"boom": boom, "interrupt": interrupt, "die": die, "stick": stick}


def n_threads_here() -> int:
    return len([*Path("/proc/self/task").iterdir()])


def outcome(function: Callable[[], Any]) -> dict[str, Any]:
    """What a call raised, and how long it took."""
    start, n_threads = time.monotonic(), n_threads_here()
    error: BaseException | None = None
    try:
        function()
    except BaseException as raised:
        error = raised
    _trap.clear()
    return {
        "kind": type(error).__name__,
        "text": str(error),
        "seconds": time.monotonic() - start,
        "threads": n_threads_here() - n_threads,
    }


def in_an_action(rank: int, ranks: tuple[int, ...], culprit: int, at: Any, fire: str) -> dict[str, Any]:
    """Fail in a forward or a backward of one rank; then all make a step that works."""
    engine = engine_of(ranks)
    _calls.clear()
    if rank == culprit:
        _trap.update(at=at, fire=FIRES[fire])
    found = outcome(lambda: engine.step(X, LATE, loss_fn=judge))
    if fire != "die":
        found["after"] = works(engine)
    return found


def works(engine: Any) -> float:
    engine.eval().train()
    return float(engine.step(X, LATE, loss_fn=judge).loss)


def in_a_message(rank: int, ranks: tuple[int, ...], culprit: int, text: str) -> dict[str, Any]:
    """Fail in a SEND or a RECV of one rank."""
    engine = engine_of(ranks)
    transport, action = engine._transport, Action.parse(text)
    name = "send" if "SEND" in text else "receive"
    usual = getattr(transport, name)

    def failing(given: Action, *rest: Any) -> Any:
        if (given.stage, given.op, given.carries, given.microbatch) == (
            action.stage,
            action.op,
            action.carries,
            action.microbatch,
        ):
            boom()
        return usual(given, *rest)

    if rank == culprit:
        setattr(transport, name, failing)
    found = outcome(lambda: engine.step(X, LATE, loss_fn=judge))
    setattr(transport, name, usual)
    return found | {"after": works(engine)}


def different(rank: int, ranks: tuple[int, ...], culprit: int, what: str) -> dict[str, Any]:
    """One rank does something else than the others."""
    engine = engine_of(ranks)
    is_culprit = rank == culprit

    def usual() -> Any:
        return engine.step(X, LATE, loss_fn=judge)

    def failing_loss(output: Tensor) -> Tensor:
        boom()
        return output

    def without_gradients() -> Any:
        with torch.no_grad():
            return usual()

    def in_eval() -> Any:
        engine.eval()
        return usual()

    def too_late() -> Any:
        stick()
        return usual()

    strange: dict[str, Callable[[], Any]] = {
        "loss": lambda: engine.step(X, LATE, loss_fn=failing_loss),
        "shape": lambda: engine.step(X[:6], LATE[:6], loss_fn=judge),
        "dtype": lambda: engine.step(X.double(), LATE, loss_fn=judge),
        "call": lambda: engine.forward(X, LATE),
        "clip": lambda: engine.clip_grad_norm_(1.0),
        "no loss_fn": lambda: engine.step(X, LATE),
        "no_grad": without_gradients,
        "eval": in_eval,
        "late": too_late,
        "missing": lambda: engine.step(X, None, loss_fn=judge),
    }
    found = outcome(strange[what] if is_culprit else usual)
    return found | {"after": works(engine)}


def leaving(rank: int, ranks: tuple[int, ...], culprit: int, how: str) -> dict[str, Any]:
    """One rank closes its engine while the others go on."""
    engine = split().engine(group=_groups[ranks], timeout_s=TIMEOUT_S, seed=0)

    def leave() -> None:
        if how == "close":
            engine.close()
            return
        with engine:
            engine.step(X, LATE, loss_fn=judge)
            boom()

    def stay() -> None:
        if how != "close":
            engine.step(X, LATE, loss_fn=judge)
        engine.step(X, LATE, loss_fn=judge)

    found = outcome(leave if rank == culprit else stay)
    engine.close()
    return found


class LostStore:
    """Answers as the client of a TCPStore does whose server was killed."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def lost(*_: Any) -> Any:
            raise dist.DistNetworkError("Failed to recv, got 0 bytes.")

        return lost


def without_store(rank: int, ranks: tuple[int, ...], culprit: int) -> dict[str, Any]:
    """The store is lost, and one rank fails: the others cannot be told why."""
    engine = split().engine(group=_groups[ranks], timeout_s=TIMEOUT_S, seed=0)
    engine.step(X, LATE, loss_fn=judge)
    engine._peers._cause._store = LostStore()
    _calls.clear()
    if rank == culprit:
        _trap.update(at=("F", culprit, 1), fire=boom)
    found = outcome(lambda: engine.step(X, LATE, loss_fn=judge))
    engine.close()
    return found


OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "microbatches": {"n_microbatches": 2},
    "argument": {"loss_reduction": "median"},
    "half a microbatch": {"n_microbatches": 2.5},
    "device": {"devices": "cuda:77"},
}


def meeting(rank: int, ranks: tuple[int, ...], culprit: int, what: str) -> dict[str, Any]:
    """One rank differs, or fails, while the engine is made."""
    pipe = split()
    options: dict[str, Any] = {"timeout_s": 2.0, "seed": 0}
    if what == "size":
        pipe = split(n_ranks=2)
    elif rank == culprit:
        if what == "never":
            return outcome(lambda: None)
        if what == "die":
            die()
        if what == "version":
            handshake.__version__ = "0.0.1"
        if what == "model":
            pipe = split()
            pipe.model.extra = nn.Linear(1, 1)
        if what == "requires_grad":
            pipe = split(frozen="b.weight")
        if what == "plan":
            pipe = split(pins=(0, 0, 2))
        if what == "mode":
            pipe.eval()
        if what == "address":
            os.environ["GLOO_SOCKET_IFNAME"] = "nowhere0"
        options |= OTHER_OPTIONS.get(what, {})
    found = outcome(lambda: pipe.engine(group=_groups[ranks], **options))
    handshake.__version__ = autopipe.__version__
    os.environ.pop("GLOO_SOCKET_IFNAME", None)
    if hasattr(split().model, "extra"):
        del split().model.extra
    split().train()
    return found


def measured_differently(rank: int, ranks: tuple[int, ...]) -> dict[str, int]:
    """Rank 1 measured otherwise; return the plan that it trains by."""
    pipe = split(pins=(0, 0, 2) if rank == 1 else (0, 1, 2), cost="measured")
    with pipe.engine(group=_groups[ranks], timeout_s=TIMEOUT_S, seed=0) as engine:
        engine.step(X, LATE, loss_fn=judge)
    return dict(pipe.plan.stage_of_key)
