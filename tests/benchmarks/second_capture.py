"""What a call with another signature costs: it is captured and cut again, once, and known from then on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import autopipe
from autopipe.captures import Captures
from autopipe.pipeline import Pipeline
from autopipe.trace import capture
from models import gpt, lstm
from tests.benchmarks.paired import by_turns
from tests.benchmarks.record import Record, Rows

N_STAGES, N_ROUNDS = 4, 3
METHOD = f"""\
Each model is split into {N_STAGES} stages in training mode. "capture" is the capture of its evaluation mode
alone; "another signature" is all that the first call in that mode has before it runs: the signature, the
capture, and the cut into the stages that the nodes have; "known again" is the same for every later call:
the signature, and finding the stages. "forward" is the plain model without gradients on the example. By
turns in one process, on one thread, CPU seconds, medians of {N_ROUNDS} rounds; the ratio is that of
"another signature" to "capture", its quartiles in brackets."""


def subjects() -> Iterator[tuple[str, nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]]:
    for name, file in (("gpt", gpt), ("lstm", lstm)):
        torch.manual_seed(0)
        args, kwargs = file.example(4)
        yield f"models/{name}", file.build(), (args, kwargs)


def ways_of(
    model: nn.Module, example: tuple[tuple[Any, ...], dict[str, Any]]
) -> dict[str, Callable[[], object]]:
    args, kwargs = example
    pipe: Pipeline = autopipe.split(model.train(), N_STAGES, args, kwargs)

    def fresh() -> Captures:
        return Captures(model, pipe.plan.cut, lambda _fqn: False)

    known = fresh()
    model.eval()
    known.staged_for(args, kwargs)

    def forward() -> None:
        with torch.no_grad():
            model(*args, **kwargs)

    return {
        "capture": lambda: capture(model, args, kwargs),
        "another signature": lambda: fresh().staged_for(args, kwargs),
        "known again": lambda: known.staged_for(args, kwargs),
        "forward": forward,
    }


def main() -> None:
    torch.set_num_threads(1)
    record = Record(
        "second_capture",
        "What a call with another signature costs",
        "python -m tests.benchmarks.second_capture",
        METHOD,
    )
    rows, findings = [], []
    for name, model, example in subjects():
        ways = ways_of(model, example)
        timings = by_turns(ways, N_ROUNDS, warmup=1, clock=time.process_time)
        ms = {way: timings.median_ms(way) for way in ways}
        n_modules = sum(1 for _ in model.modules())
        ratio = timings.shown("another signature", "capture")
        rows.append((name, str(n_modules), *(f"{ms[way]:.1f}" for way in ways), ratio))
        findings.append(
            f"{name}: {ms['another signature'] / 1e3:.2f} s once, then {ms['known again']:.2f} ms a call "
            f"({ms['known again'] / ms['forward']:.2f} of a forward)."
        )
    columns = (
        "model",
        "modules",
        "capture ms",
        "another signature ms",
        "known again ms",
        "forward ms",
        "ratio",
    )
    record.write([Rows("A call with another signature", columns, rows)], findings)


if __name__ == "__main__":
    main()
