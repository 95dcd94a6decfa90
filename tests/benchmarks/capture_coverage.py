"""How many architectures of transformers, torchvision and timm train in 4 stages with the plain numbers.

Each is built small from its own config class and runs unsplit first, twice from one seed: what does not
run, or differs from itself, does not count. Then one stage must equal the model, random numbers included,
and a 1F1B step of 4 stages and 4 microbatches must give the loss and every gradient of the plain loop (of
one stage, if the model draws random numbers).

    python -m tests.benchmarks.capture_coverage [--kind "causal LM"] [--only NAME ...] [--every N]

=========  ==================================================================================
equal      loss and gradients are equal
explained  autopipe refused with an AutopipeError
raised     something else was raised, or it took too long
wrong      the numbers differ
=========  ==================================================================================
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.benchmarks.small_models import architectures, build_that_runs, loss_of
from tests.benchmarks.vision_models import build_vision, families

N_STAGES, N_MICROBATCHES, LIMIT_S = 4, 4, 240
RECORDS = Path(__file__).parents[2] / "docs" / "benchmarks"
VERDICTS = ("equal", "explained", "raised", "wrong")


@dataclass(frozen=True)
class Result:
    """What became of one architecture."""

    kind: str
    name: str
    verdict: str
    note: str = ""
    n_opaque: int = 0
    is_bitwise: bool = False
    is_random: bool = False
    capture_s: float = 0.0


@dataclass(frozen=True)
class Numbers:
    """A loss and the gradients that it gave."""

    loss: torch.Tensor
    grads: dict[str, torch.Tensor | None]

    def difference(self, other: Numbers) -> str:
        """Say what differs bitwise, or ""."""
        return self._difference(other, torch.equal)

    def distance(self, other: Numbers) -> str:
        """Say what differs by more than sums in another order explain, or ""."""
        return self._difference(other, _is_close)

    def _difference(self, other: Numbers, agree: Callable[[torch.Tensor, torch.Tensor], bool]) -> str:
        if not agree(self.loss, other.loss):
            return f"loss {self.loss.item():.7g} is {other.loss.item():.7g}"
        for name, grad in self.grads.items():
            found = other.grads[name]
            if (grad is None) != (found is None):
                return f"grad of {name} is {'None' if found is None else 'there'}"
            if grad is not None and found is not None and not agree(grad, found):
                return f"grad of {name} differs by {(grad - found).abs().max():.2g} of {grad.abs().max():.2g}"
        return ""


def _is_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    scale = float(one.abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * scale + 1e-7, equal_nan=True)


class Bench:
    """One model, its batch, and runs that leave it as it was.

    Args:
        model: The model.
        batch: Its keyword arguments.
    """

    def __init__(self, model: nn.Module, batch: dict[str, Any]) -> None:
        self.model, self.batch = model, batch
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    def numbers(self, run: Callable[[], torch.Tensor]) -> Numbers:
        """Run forward and backward from a fixed seed; return the loss and the gradients."""
        self.model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        loss = run().detach().clone()
        grads = {name: p.grad for name, p in self.model.named_parameters()}
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if name in self._buffers:
                    buffer.copy_(self._buffers[name])
        return Numbers(loss, grads)

    def whole(self, call: Callable[..., Any]) -> Numbers:
        """Numbers of one call on the first microbatch."""

        def run() -> torch.Tensor:
            loss = loss_of(call(**self.microbatches()[0]))
            loss.backward()
            return loss

        return self.numbers(run)

    def loop(self) -> Numbers:
        """Numbers of the plain model in a loop over the microbatches."""

        def run() -> torch.Tensor:
            losses = []
            for microbatch in self.microbatches():
                loss = loss_of(self.model(**microbatch)) / N_MICROBATCHES
                loss.backward()
                losses.append(loss.detach())
            return torch.stack(losses).sum()

        return self.numbers(run)

    def step(self, n_stages: int) -> Numbers:
        """Numbers of a 1F1B step."""
        import autopipe

        pipe = autopipe.split(self.model, n_stages, (), self.microbatches()[0], n_microbatches=N_MICROBATCHES)
        with pipe.engine(seed=3) as engine:
            loss_fn = None if "labels" in self.batch or "return_loss" in self.batch else loss_of
            return self.numbers(lambda: engine.step(**self.batch, loss_fn=loss_fn).loss)

    def microbatches(self) -> list[dict[str, Any]]:
        """The batch cut along dimension 0."""
        parts = {
            name: value.tensor_split(N_MICROBATCHES) if isinstance(value, torch.Tensor) else None
            for name, value in self.batch.items()
        }
        return [
            {name: part[i] if part else self.batch[name] for name, part in parts.items()}
            for i in range(N_MICROBATCHES)
        ]

    def is_random(self) -> bool:
        """Whether the model draws random numbers."""
        torch.manual_seed(5)
        before = torch.get_rng_state()
        self.model(**self.microbatches()[0])
        return not torch.equal(before, torch.get_rng_state())


def judge(kind: str, name: str) -> Result:
    """Compare one architecture with itself, split."""
    try:
        vision = kind in ("torchvision", "timm")
        model, batch = build_vision(kind, name) if vision else build_that_runs(name, kind)
        bench = Bench(model, batch)
        plain = bench.whole(model)
        differs = plain.difference(bench.whole(model))
        loop = bench.loop()
    except Exception as error:
        return Result(kind, name, "does not run", _first_line(error))
    if differs or not torch.isfinite(plain.loss):
        return Result(kind, name, "differs from itself", differs or "loss is not finite")
    try:
        return _judge_split(kind, name, bench, plain, loop)
    except Exception as error:
        from autopipe.errors import AutopipeError

        if isinstance(error, AutopipeError):
            return Result(kind, name, "explained", str(error))
        trace = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in trace][-4:]
        return Result(kind, name, "raised", f"{_first_line(error)} {' '.join(ours)}")


def _judge_split(kind: str, name: str, bench: Bench, plain: Numbers, loop: Numbers) -> Result:
    import autopipe

    is_random = bench.is_random()
    start = time.perf_counter()
    pipe = autopipe.split(bench.model, 1, (), bench.microbatches()[0])
    capture_s = time.perf_counter() - start
    traced = pipe._staged.traced
    n_opaque = sum(bool(info.opaque_because) for info in traced.info.values())
    whole = bench.whole(pipe)
    is_bitwise = not plain.difference(whole)
    note = plain.distance(whole)
    if note:
        note = f"in one stage: {note}"
    elif is_random:
        note = bench.step(1).distance(bench.step(N_STAGES))
    else:
        note = loop.distance(bench.step(N_STAGES))
    opaque = ", ".join(info.opaque_because for info in traced.info.values() if info.opaque_because)
    verdict = "wrong" if note else "equal"
    return Result(kind, name, verdict, note or opaque, n_opaque, is_bitwise, is_random, round(capture_s, 2))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]


def in_a_child(kind: str, name: str) -> Result:
    """Judge in a forked process, so that neither a crash nor a hang ends the run."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        os.close(reader)
        with os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        result = judge(kind, name)
        os.write(writer, json.dumps(asdict(result)).encode()[:60000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if not text:
        return Result(kind, name, "raised", f"the process ended with status {status}")
    return Result(**json.loads(text))


def table(results: list[Result]) -> str:
    """One line a kind, then what is neither equal nor counted out."""
    kinds = list(dict.fromkeys(result.kind for result in results))
    lines = [
        f"| {'family':<22} | counted | " + " | ".join(f"{v:>9}" for v in VERDICTS) + " | bitwise | opaque |"
    ]
    lines += ["|" + "---|" * (len(VERDICTS) + 4)]
    for kind in [*kinds, "all"]:
        mine = [result for result in results if kind in (result.kind, "all")]
        count = Counter(result.verdict for result in mine)
        counted = sum(count[verdict] for verdict in VERDICTS)
        n_opaque = sum(result.n_opaque > 0 for result in mine if result.verdict == "equal")
        n_bitwise = sum(result.is_bitwise for result in mine if result.verdict == "equal")
        cells = " | ".join(f"{count[verdict]:>9}" for verdict in VERDICTS)
        lines.append(f"| {kind:<22} | {counted:>7} | {cells} | {n_bitwise:>7} | {n_opaque:>6} |")
    return "\n".join(lines)


def main() -> None:
    """Judge everything asked for, print the table and write the record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--every", type=int, default=1, help="judge one in so many")
    parser.add_argument("--offset", type=int, default=0, help="of the first one judged")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    every = [*((kind, name) for kind, _, name in architectures()), *families()]
    wanted = [(kind, name) for kind, name in every if options.kind in (None, kind)]
    wanted = [(kind, name) for kind, name in wanted if not options.only or name in options.only]
    results = []
    for kind, name in wanted[options.offset :: options.every]:
        result = in_a_child(kind, name)
        results.append(result)
        print(
            f"{result.verdict:<20} {kind:<20} {name:<45} {result.capture_s:>6} s  {result.note[:400]}",
            flush=True,
        )
    print(table(results))
    if options.record:
        write_record(results)


def write_record(results: list[Result]) -> None:
    """Write docs/benchmarks/capture-coverage-DATE.md."""
    import transformers

    RECORDS.mkdir(exist_ok=True)
    rest = [result for result in results if result.verdict in ("explained", "raised", "wrong")]
    lines = [
        f"# Capture coverage, {date.today().isoformat()}",
        "",
        f"`python -m tests.benchmarks.capture_coverage {' '.join(sys.argv[1:])}`, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, one thread of a CPU; {N_STAGES} stages, {N_MICROBATCHES} "
        "microbatches, 1F1B.",
        "",
        table(results),
        "",
        *[f"- {result.verdict}: {result.name}: {result.note.splitlines()[0]}" for result in rest],
        "",
    ]
    (RECORDS / f"capture-coverage-{date.today().isoformat()}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
