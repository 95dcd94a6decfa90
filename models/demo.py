"""Trains a GPT on Python's own source code, in four stages and in one, and shows that both are the same.

Run it with ``make demo``. Everything that it writes goes to ``demo-out/``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from torch import Tensor

import autopipe
from models import gpt

N_STAGES, N_MICROBATCHES, N_STEPS = 4, 8, 40
BATCH, CONTEXT, WIDTH, N_BLOCKS = 16, 64, 128, 8
SEED = 0
OUTPUT = Path("demo-out")


def main() -> int:
    """Train twice, compare, and draw; return 1 if the losses differ."""
    torch.set_num_threads(1)  # the tensors are small: more threads only wait for each other
    console = Console()
    text = standard_library_bytes()
    console.print(
        f"A GPT of {N_BLOCKS} blocks, tied head and dropout, learns "
        f"{len(text) / 1e6:.1f} MB of the source code of Python's own library."
    )
    started = time.perf_counter()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console
    ) as bars:
        split = bars.add_task(f"{N_STAGES} stages, 1F1B", total=N_STEPS)
        whole = bars.add_task("1 stage", total=N_STEPS)
        pipe, losses = train(text, N_STAGES, lambda: bars.advance(split))
        _, reference = train(text, 1, lambda: bars.advance(whole))
    console.print(loss_table(losses, reference))
    largest = max(abs(a - b) for a, b in zip(losses, reference, strict=True))
    console.print(f"Equal up to rounding: the largest difference of {N_STEPS} steps is {largest:g}.\n")
    console.out(pipe.summary(), highlight=False)
    for path, what in write_pictures(pipe):
        console.out(f"{what:<52} {path}", highlight=False)
    console.print(f"Done in {time.perf_counter() - started:.0f} s.")
    return 0 if largest <= 1e-5 * reference[0] and losses[-1] < losses[0] else 1


def standard_library_bytes() -> Tensor:
    """Return the bytes of the modules that every Python installation has, as int64 `[n]`."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))[:60]
    data = bytearray(b"".join(file.read_bytes() for file in files))
    return torch.frombuffer(data, dtype=torch.uint8).long()


def train(text: Tensor, n_stages: int, advance: Callable[[], None]) -> tuple[autopipe.Pipeline, list[float]]:
    """Train a fresh model in ``n_stages`` stages; return the pipeline and the loss of every step."""
    torch.manual_seed(SEED)
    model = gpt.build(width=WIDTH, n_blocks=N_BLOCKS, context=CONTEXT)
    microbatch = torch.zeros(BATCH // N_MICROBATCHES, CONTEXT, dtype=torch.long)
    pipe = autopipe.split(model, n_stages, (microbatch,), n_microbatches=N_MICROBATCHES, progress=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    draw, losses = torch.Generator().manual_seed(SEED), []
    with pipe.engine(seed=SEED) as engine:
        for _ in range(N_STEPS):
            starts = torch.randint(len(text) - CONTEXT - 1, (BATCH, 1), generator=draw)
            windows = text[starts + torch.arange(CONTEXT + 1)]
            out = engine.step(windows[:, :-1], target=windows[:, 1:], loss_fn=gpt.loss)
            engine.clip_grad_norm_(1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(out.loss.item())
            advance()
    return pipe, losses


def loss_table(losses: list[float], reference: list[float]) -> Table:
    """Lay out every fourth step."""
    table = Table("step", f"loss, {N_STAGES} stages", "loss, 1 stage", "difference")
    for step in [*range(0, N_STEPS, 4), N_STEPS - 1]:
        difference = losses[step] - reference[step]
        table.add_row(str(step), f"{losses[step]:.6f}", f"{reference[step]:.6f}", f"{difference:g}")
    return table


def write_pictures(pipe: autopipe.Pipeline) -> list[tuple[Path, str]]:
    """Write the plan and what can be seen of it; return the paths and what each shows."""
    OUTPUT.mkdir(exist_ok=True)
    files = [
        (OUTPUT / "plan.json", "the plan"),
        (OUTPUT / "partition.html", "the partition and the schedule, for a browser"),
        (OUTPUT / "partition.svg", "the partition, as a picture"),
        (OUTPUT / "timeline.svg", "the predicted timeline of a step, as a picture"),
    ]
    pipe.plan.save(files[0][0])
    pipe.draw(files[1][0])
    pipe.draw(files[2][0])
    pipe.draw_timeline(files[3][0])
    return files


if __name__ == "__main__":
    sys.exit(main())
