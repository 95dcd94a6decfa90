"""A 1F1B step over two gloo processes: the engine, torch.distributed.pipelining at the same cut, the ideal.

::

    ideal = (M + S - 1) x the slowest stage          M microbatches, S = 2 stages, nothing sent, nothing else

torch's stages are written by hand from the same modules; both train the same parameters to equal gradients,
which is checked first.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B
from torch.multiprocessing.spawn import spawn

import autopipe
from autopipe.pipeline import Pipeline
from models import gpt
from tests.benchmarks.paired import Timings, by_turns
from tests.benchmarks.record import Record, Rows

N_STAGES, N_MICROBATCHES, SAMPLES = 2, 8, 4
WARMUP = 3
CASES: dict[str, tuple[dict[str, Any], int]] = {
    "small": ({"dropout": 0.0}, 40),
    "wide": ({"dropout": 0.0, "width": 256, "n_blocks": 6, "n_heads": 8, "context": 64}, 16),
}
"""Name -> sizes of `models/gpt`, and rounds."""

METHOD = f"""\
`models/gpt` without dropout, its head untied (torch.distributed.pipelining knows no tied weights): "small"
has 8 blocks of width 64 and 32 tokens, "wide" 6 of width 256 and 64 tokens. {N_MICROBATCHES} microbatches
of {SAMPLES} sequences, forward and backward, no optimizer. Two processes of one thread each, gloo over the
loopback. The cut is autopipe's, and only the residual stream crosses it; torch's `PipelineStage`s are
written by hand at the same cut, their shapes given. By turns in the same processes, after a barrier; a
step takes as long as on the slower rank; ratios are medians over the rounds, quartiles in brackets. The
ideal is {N_MICROBATCHES + N_STAGES - 1} / {N_MICROBATCHES} of all microbatches of the slower stage without
messages, both ranks at once. "CPU ratio" compares the CPU seconds of both ranks together, which other work
disturbs less."""


class First(nn.Module):
    """What lies before the cut."""

    def __init__(self, model: gpt.GPT, n_blocks: int) -> None:
        super().__init__()
        self.wte, self.wpe, self.drop = model.wte, model.wpe, model.drop
        self.blocks = model.blocks[:n_blocks]

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x_BTC = self.drop(self.wte(tokens) + self.wpe(positions))
        for block in self.blocks:
            x_BTC = block(x_BTC)
        return x_BTC


class Second(nn.Module):
    """What lies behind the cut."""

    def __init__(self, model: gpt.GPT, n_blocks: int) -> None:
        super().__init__()
        self.blocks, self.ln_f, self.head = model.blocks[n_blocks:], model.ln_f, model.head

    def forward(self, x_BTC: Tensor) -> Tensor:
        for block in self.blocks:
            x_BTC = block(x_BTC)
        logits: Tensor = self.head(self.ln_f(x_BTC))
        return logits


class Rank:
    """One process: its half of the model, and three ways to run it."""

    def __init__(self, rank: int, size: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.rank, self.model = rank, gpt.build(**size)
        self.model.head.weight = nn.Parameter(self.model.head.weight.detach().clone())
        (self.tokens,), _, self.target = gpt.make_batch(N_MICROBATCHES * SAMPLES, **size)
        example = (self.tokens[:SAMPLES],)
        together = tuple(f"blocks.{index}" for index in range(len(self.model.blocks)))
        pipe = autopipe.split(
            self.model, N_STAGES, example, n_microbatches=N_MICROBATCHES, keep_together=together
        )
        self.n_blocks = blocks_before_the_cut(pipe)
        self.engine = pipe.engine(group=dist.group.WORLD, seed=0)
        halves = (First(self.model, self.n_blocks), Second(self.model, self.n_blocks))
        self.crossing = torch.zeros(SAMPLES, self.tokens.shape[1], self.model.config.width)
        self.half = halves[rank]
        given = (example[0], self.crossing.clone().requires_grad_())[rank]
        shapes = (given,), (self.half(given),)
        cpu, group = torch.device("cpu"), dist.group.WORLD
        stage = PipelineStage(self.half, rank, N_STAGES, cpu, *shapes, group=group)
        self.schedule = Schedule1F1B(stage, N_MICROBATCHES, loss_fn=gpt.loss)

    def by_autopipe(self) -> None:
        self.engine.step(self.tokens, target=self.target, loss_fn=gpt.loss)

    def by_torch(self) -> None:
        if self.rank == 0:
            self.schedule.step(self.tokens)
        else:
            self.schedule.step(target=self.target)

    def stage_alone(self) -> None:
        """All microbatches through this rank's half, without messages."""
        inputs = self.tokens.chunk(N_MICROBATCHES)
        targets = self.target.chunk(N_MICROBATCHES)
        for x, y in zip(inputs, targets, strict=True):
            if self.rank == 0:
                self.half(x).backward(self.crossing)
            else:
                leaf = self.crossing.detach().requires_grad_()
                (gpt.loss(self.half(leaf), y) / N_MICROBATCHES).backward()

    def gradients(self, way: Callable[[], None]) -> dict[str, Tensor]:
        self.zero_grad()
        way()
        return {name: p.grad.clone() for name, p in self.half.named_parameters() if p.grad is not None}

    def zero_grad(self) -> None:
        self.model.zero_grad()

    def check_equal(self) -> bool:
        """Raise unless both ways leave the same gradients; say whether every bit is the same."""
        ours, theirs = self.gradients(self.by_autopipe), self.gradients(self.by_torch)
        assert len(ours) == len(list(self.half.parameters()))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        return all(ours[name].equal(theirs[name]) for name in ours)


def blocks_before_the_cut(pipe: Pipeline) -> int:
    """How many blocks the first stage has; the cut must be at the end of one, where one tensor crosses."""
    first, second = pipe.plan.fqns_per_stage()
    before = {name.split(".")[1] for name in first if name.startswith("blocks.")}
    behind = {name.split(".")[1] for name in second if name.startswith("blocks.")}
    assert not before & behind, f"the cut is inside a block: {before & behind}"
    assert len(pipe.plan.transfers) == 1, f"more than the residual stream crosses: {pipe.plan.transfers}"
    return len(before)


def measured(rank: int, size: dict[str, Any], n_rounds: int) -> dict[str, Any]:
    """Check, then time all ways by turns on this rank; every rank returns the same."""
    mine = Rank(rank, size)
    is_bitwise = mine.check_equal()
    cpu_ms: dict[str, list[float]] = {}

    def counted(name: str, way: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            way()
            cpu_ms.setdefault(name, []).append((time.process_time() - start) * 1e3)

        return run

    def before() -> None:
        mine.zero_grad()
        dist.barrier()

    ways = {"autopipe": mine.by_autopipe, "torch": mine.by_torch, "ideal": mine.stage_alone}
    counted_ways = {name: counted(name, way) for name, way in ways.items()}
    wall = by_turns(counted_ways, n_rounds, before=before, warmup=WARMUP)
    found: list[Any] = [None] * N_STAGES
    cpu = {name: values[WARMUP:] for name, values in cpu_ms.items()}
    dist.all_gather_object(found, (wall.ms, cpu, is_bitwise))
    mine.engine.close()
    slower = {name: of_all(max, [each[0][name] for each in found]) for name in ways}
    slower["ideal"] = [ms * (N_MICROBATCHES + N_STAGES - 1) / N_MICROBATCHES for ms in slower["ideal"]]
    both = {name: of_all(sum, [each[1][name] for each in found]) for name in ways}
    return {"wall": slower, "cpu": both, "bitwise": all(each[2] for each in found), "blocks": mine.n_blocks}


def of_all(how: Callable[[Any], float], ms_by_rank: list[list[float]]) -> list[float]:
    """One number a round, of all ranks."""
    return [how(ms) for ms in zip(*ms_by_rank, strict=True)]


def work(rank: int, port: int, answer: str) -> None:
    """One rank; rank 0 writes what was found."""
    torch.set_num_threads(1)
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    limit = timedelta(seconds=120)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=N_STAGES, timeout=limit)
    found = {name: measured(rank, size, n_rounds) for name, (size, n_rounds) in CASES.items()}
    if rank == 0:
        Path(answer).write_text(json.dumps(found))
    dist.destroy_process_group()


def main() -> None:
    """Run the ranks, print the table and write the record."""
    record = Record(
        "pipelining_gloo",
        "A 1F1B step over two processes",
        "python -m tests.benchmarks.pipelining_gloo",
        METHOD,
    )
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "found.json"
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        spawn(work, (store.port, str(answer)), nprocs=N_STAGES)
        found = json.loads(answer.read_text())
    rows, findings = [], []
    for name, case in found.items():
        wall, cpu = Timings(case["wall"]), Timings(case["cpu"])
        rows.append(
            (
                *(name, str(case["blocks"])),
                *(f"{wall.median_ms(way):.1f}" for way in ("autopipe", "torch", "ideal")),
                *(wall.shown("autopipe", base) for base in ("torch", "ideal")),
                *(wall.shown("torch", "ideal"), cpu.shown("autopipe", "torch")),
            )
        )
        equal = "bit by bit" if case["bitwise"] else "to 1e-5"
        findings.append(
            f"{name}: {wall.ratio('autopipe', 'torch'):.3f} times torch.distributed.pipelining, "
            f"{wall.ratio('autopipe', 'ideal'):.3f} times the ideal; gradients equal {equal}."
        )
    times = ("autopipe ms", "torch ms", "ideal ms")
    ratios = ("autopipe / torch", "autopipe / ideal", "torch / ideal", "CPU ratio")
    record.write([Rows("A step", ("model", "blocks before the cut", *times, *ratios), rows)], findings)


if __name__ == "__main__":
    main()
