"""What the engine costs beside the plain loop over the same microbatches, all in one process.

The numbers are equal, checked first; so whatever the engine takes longer is its own: cutting the batch,
signatures, actions, messages, and the keys of random operations.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

import autopipe
from autopipe.runtime import Engine
from models import gpt
from tests.benchmarks.paired import Timings, by_turns
from tests.benchmarks.record import Record, Rows

N_MICROBATCHES, SAMPLES = 8, 4
N_STAGES = (1, 4)
METHOD = f"""\
One step (forward and backward, no optimizer) of {N_MICROBATCHES} microbatches of {SAMPLES} sequences of
`models/gpt`: `engine.step` with 1F1B, all stages in this process on one thread, against a loop of
`(loss(model(x), y) / {N_MICROBATCHES}).backward()`. "small" has 8 blocks of width 64 and 32 tokens, "wide"
6 of width 256 and 64 tokens. By turns in one process; a ratio is the median over the rounds, quartiles in
brackets. "ms more" is the median of the differences; "us a microbatch" and "us an action" are that divided
by how many there are; actions are F, B, SEND and RECV. CPU seconds of the process are timed, because the
cores are shared, and nothing here waits. Without dropout every gradient was equal bit by bit; in 4 stages
that of the tied weight up to the order of its sums (two stages add to it by turns). "no engine, 4 in
flight" is the plain loop with the forwards of 4 microbatches ahead of their backwards, as 1F1B has them on
the first of 4 stages: what keeping them costs by itself."""


@dataclass(frozen=True)
class Case:
    """A model to train."""

    name: str
    size: dict[str, Any]
    n_rounds: int


CASES = (
    Case("small", {"dropout": 0.0}, 30),
    Case("small, dropout", {"dropout": 0.1}, 30),
    Case("wide", {"dropout": 0.0, "width": 256, "n_blocks": 6, "n_heads": 8, "context": 64}, 12),
)
"""Of `models/gpt`: its defaults (8 blocks of width 64, 32 tokens), and one with 9 times the work."""


def plain_step(model: torch.nn.Module, tokens: torch.Tensor, target: torch.Tensor) -> None:
    """The loop that everybody writes."""
    for x, y in zip(tokens.chunk(N_MICROBATCHES), target.chunk(N_MICROBATCHES), strict=True):
        (gpt.loss(model(x), y) / N_MICROBATCHES).backward()


def step_in_flight(model: torch.nn.Module, tokens: torch.Tensor, target: torch.Tensor) -> None:
    """The same loop with as many forwards ahead of their backwards as 1F1B has on its first stage."""
    waiting: deque[torch.Tensor] = deque()
    for x, y in zip(tokens.chunk(N_MICROBATCHES), target.chunk(N_MICROBATCHES), strict=True):
        waiting.append(gpt.loss(model(x), y) / N_MICROBATCHES)
        if len(waiting) == max(N_STAGES):
            waiting.popleft().backward()
    while waiting:
        waiting.popleft().backward()


def check_equal(model: torch.nn.Module, expected: Callable[[], object], found: Callable[[], object]) -> None:
    """Raise unless two steps leave the same gradients; a tied weight's sums may be in another order."""
    left, right = _gradients(model, expected), _gradients(model, found)
    assert left.keys() == right.keys()
    for name, gradient in left.items():
        if name == "wte.weight":
            torch.testing.assert_close(right[name], gradient, rtol=1e-5, atol=1e-7)
        else:
            assert right[name].equal(gradient), name


def _gradients(model: torch.nn.Module, step: Callable[[], object]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    step()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def measured(case: Case) -> tuple[Timings, dict[int, Engine]]:
    """Time the plain loop and the engines by turns."""
    torch.manual_seed(0)
    model = gpt.build(**case.size)
    batch = gpt.make_batch(N_MICROBATCHES * SAMPLES, **case.size)
    example = (batch.args[0][:SAMPLES],)
    engines = {
        k: autopipe.split(model, k, example, n_microbatches=N_MICROBATCHES).engine(seed=0) for k in N_STAGES
    }
    ways: dict[str, Callable[[], object]] = {
        "plain": functools.partial(plain_step, model, *batch.args, batch.target),
        "in flight": functools.partial(step_in_flight, model, *batch.args, batch.target),
    }
    for k, engine in engines.items():
        ways[str(k)] = functools.partial(engine.step, *batch.args, target=batch.target, loss_fn=gpt.loss)
    if not case.size["dropout"]:
        for k in N_STAGES:
            check_equal(model, ways["plain"], ways[str(k)])
    return by_turns(ways, case.n_rounds, before=model.zero_grad, clock=time.process_time), engines


def shown(timings: Timings, way: str) -> tuple[str, ...]:
    """The cells of one way beside the plain loop."""
    medians = (f"{timings.median_ms(name):.1f}" for name in ("plain", way))
    return (*medians, timings.shown(way, "plain"), f"{timings.difference_ms(way, 'plain'):.2f}")


def main() -> None:
    """Measure every case, print the table and write the record."""
    torch.set_num_threads(1)
    record = Record(
        "engine_overhead",
        "The engine beside the plain loop",
        "python -m tests.benchmarks.engine_overhead",
        METHOD,
    )
    rows, ratios = [], {}
    for case in CASES:
        timings, engines = measured(case)
        rows.append((case.name, "no engine, 4 in flight", *shown(timings, "in flight"), "", ""))
        for k, engine in engines.items():
            n_actions = sum(map(len, engine.schedule.rows))
            more_us = timings.difference_ms(str(k), "plain") * 1e3
            ratios[case.name, k] = timings.ratio(str(k), "plain")
            each = (f"{more_us / N_MICROBATCHES:.0f}", f"{more_us / n_actions:.0f}")
            rows.append((case.name, f"{k} stage{'s' if k > 1 else ''}", *shown(timings, str(k)), *each))
    times = ("plain ms", "its ms", "ratio", "ms more")
    columns = ("model", "way", *times, "us a microbatch", "us an action")
    findings = [
        f"{name}: {ratios[name, 1]:.3f} times the plain loop in 1 stage, {ratios[name, 4]:.3f} times in 4."
        for name in dict.fromkeys(case.name for case in CASES)
    ]
    record.write([Rows("A step", columns, rows)], findings)


if __name__ == "__main__":
    main()
