"""A training script as a user starts it: a fresh interpreter a rank, in which one rank may be killed.

``python -m tests.dist.fresh FOLDER CULPRIT KIND STAGE MICROBATCH`` runs under torchrun, or with its variables
set. Each rank writes what it ended with to ``FOLDER/RANK``.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from tests.dist import failing


def main(folder: Path, culprit: int, kind: str, stage: int, microbatch: int) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    rank = dist.get_rank()
    pipe = failing.split(n_ranks=dist.get_world_size())
    with pipe.engine(group=dist.group.WORLD, timeout_s=failing.TIMEOUT_S, seed=0) as engine:
        engine.step(failing.X, failing.LATE, loss_fn=failing.judge)
        failing._calls.clear()
        if rank == culprit:
            failing._trap.update(at=(kind, stage, microbatch), fire=failing.die)
        found = failing.outcome(lambda: engine.step(failing.X, failing.LATE, loss_fn=failing.judge))
    (folder / str(rank)).write_text(f"{found['kind']}: {found['text']}\n")
    if found["kind"] != "NoneType":
        raise SystemExit(1)


if __name__ == "__main__":
    where, *numbers = sys.argv[1:]
    main(Path(where), int(numbers[0]), numbers[1], int(numbers[2]), int(numbers[3]))
