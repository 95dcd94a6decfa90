"""Processes that live as long as a test module: each runs the functions that the tests send by name.

A process costs seconds to start, a case milliseconds. No case can hang: its time is limited, and what does
not answer is killed with all that it started.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import torch.distributed as dist

ROOT = Path(__file__).parents[2]


class Crew:
    """Ranks of one process group, whose store lies in this process.

    Args:
        n_ranks: How many.
    """

    def __init__(self, n_ranks: int) -> None:
        self.n_ranks = n_ranks
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.dist.crew", str(self._store.port), str(n_ranks)]
        self.processes = [
            subprocess.Popen(
                [*command, str(rank)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            for rank in range(n_ranks)
        ]

    def run(self, function: Callable[..., Any], *args: Any, within_s: float = 60.0) -> list[Any]:
        """Call ``function(rank, *args)`` on every rank; a rank that died answers None.

        Raises what a rank raised, as an AssertionError with its traceback.
        """
        for process in self.processes:
            try:
                write(process.stdin, (function.__module__, function.__qualname__, args))
            except BrokenPipeError:
                continue
        deadline = time.monotonic() + within_s
        answers = [self._answer(rank, function, deadline) for rank in range(self.n_ranks)]
        for rank, answer in enumerate(answers):
            assert answer is None or answer[0], f"rank {rank}:\n{answer[1]}"
        return [None if answer is None else answer[1] for answer in answers]

    def _answer(self, rank: int, function: Callable[..., Any], deadline: float) -> Any:
        stdout = self.processes[rank].stdout
        if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            self.close()
            raise AssertionError(f"rank {rank} hangs in {function.__qualname__}")
        return read(stdout)

    def close(self) -> None:
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
            for pipe in (process.stdin, process.stdout):
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


def write(pipe: BinaryIO, value: Any) -> None:
    data = pickle.dumps(value)
    pipe.write(struct.pack("<q", len(data)) + data)
    pipe.flush()


def read(pipe: BinaryIO) -> Any:
    """Return the next value; None at the end."""
    head = pipe.read(8)
    return pickle.loads(pipe.read(struct.unpack("<q", head)[0])) if len(head) == 8 else None


def work(port: int, n_ranks: int, rank: int) -> None:
    """Run what comes until the pipe is closed."""
    import importlib
    import traceback
    import warnings

    warnings.filterwarnings("error", module="autopipe")
    commands, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a case prints does not mix with the answers
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=60))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n_ranks, timeout=timedelta(seconds=60))
    while (command := read(commands)) is not None:
        module, name, args = command
        try:
            answer = (True, getattr(importlib.import_module(module), name)(rank, *args))
        except BaseException:
            answer = (False, traceback.format_exc())
        write(answers, answer)


if __name__ == "__main__":
    work(*map(int, sys.argv[1:]))
