"""Materialises one stage in a new process a way, and prints by how much the peak of its memory rose.

The peak is resident memory as the kernel counts it, mapped files included. What is loaded late is loaded by
a small model that goes the same way before. This process loads torch, and forks the new ones.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

import autopipe

N_LAYERS, N_STAGES, WIDTH = 16, 4, 2048
WAYS = ("checkpoint", "build", "init")


def built(width: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(N_LAYERS)))


def write_checkpoint(file: Path, width: int) -> None:
    """Write zeros for all weights, without memory and, as the file has a hole, without a disk."""
    nbytes = 4 * width * width
    header = json.dumps(
        {
            f"{i}.weight": {
                "dtype": "F32",
                "shape": [width, width],
                "data_offsets": [i * nbytes, (i + 1) * nbytes],
            }
            for i in range(N_LAYERS)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + N_LAYERS * nbytes)


def materialized(way: str, width: int, folder: Path) -> int:
    """Materialise the second stage; return its bytes."""
    with torch.device("meta"):
        model = built(width)
    pipe = autopipe.split(model, N_STAGES, (torch.empty(2, width, device="meta"),))
    write_checkpoint(folder / "model.safetensors", width)
    ways: dict[str, Callable[[], object]] = {
        "checkpoint": lambda: pipe[1].materialize("cpu", folder),
        "build": lambda: pipe[1].materialize("cpu", build=lambda: built(width)),
        "init": lambda: pipe[1].materialize("cpu"),
    }
    ways[way]()
    assert sum(not parameter.is_meta for parameter in model.parameters()) == N_LAYERS // N_STAGES
    return sum(parameter.nbytes for parameter in pipe[1].module.parameters())


def peak_bytes() -> int:
    """Return the peak of resident memory since this program began; getrusage knows its parent's too."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def measured(way: str, folder: Path) -> dict[str, int]:
    """Return the bytes of the stage, and by how many the peak rose."""
    materialized(way, 256, folder)
    before = peak_bytes()
    stage_bytes = materialized(way, WIDTH, folder)
    return {"stage": stage_bytes, "rose": peak_bytes() - before}


if __name__ == "__main__":
    for way in WAYS:
        if (child := os.fork()) == 0:
            sys.stdout.write(json.dumps({way: measured(way, Path(sys.argv[1]))}) + "\n")
            sys.stdout.flush()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
