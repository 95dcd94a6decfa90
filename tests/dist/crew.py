"""Processes that live as long as a test module: each runs the functions that the tests send by name.

Importing torch costs seconds, a case milliseconds: one process imports, then forks the ranks. No case can
hang: its time is limited, and what does not answer is killed with all that it started.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

ROOT = Path(__file__).parents[2]


class Crew:
    """Ranks of one process group, whose store lies in this process.

    Args:
        n_ranks: How many.
        prepare: Called with ``args`` before the ranks are forked, so that they have what it leaves in caches.
    """

    def __init__(self, n_ranks: int, prepare: Callable[..., None], *args: Any) -> None:
        self.n_ranks = n_ranks
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        commands = [os.pipe() for _ in range(n_ranks)]
        answers = [os.pipe() for _ in range(n_ranks)]
        theirs = [
            fd
            for (read_end, _), (_, write_end) in zip(commands, answers, strict=True)
            for fd in (read_end, write_end)
        ]
        self._commands = [write_end for _, write_end in commands]
        self._answers = [read_end for read_end, _ in answers]
        self._leader = subprocess.Popen(
            [sys.executable, "-m", "tests.dist.crew", str(self._store.port), *map(str, theirs)],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            pass_fds=theirs,
            start_new_session=True,
        )
        for fd in theirs:
            os.close(fd)
        assert self._leader.stdin is not None
        self._leader.stdin.write(pickle.dumps((prepare.__module__, prepare.__qualname__, args)))
        self._leader.stdin.close()

    def run(
        self, function: Callable[..., Any], *args: Any, ranks: list[int] | None = None, within_s: float = 60.0
    ) -> list[Any]:
        """Call ``function(rank, *args)`` on every rank; a rank that dies meanwhile answers None.

        What a rank raised is an AssertionError here, with its traceback.
        """
        ranks = list(range(self.n_ranks)) if ranks is None else ranks
        for rank in ranks:
            write(self._commands[rank], (function.__module__, function.__qualname__, args))
        deadline = time.monotonic() + within_s
        answers = [self._answer(rank, function, deadline) for rank in ranks]
        wrong = [
            f"rank {rank}:\n{answer[1]}"
            for rank, answer in zip(ranks, answers, strict=True)
            if answer is not None and not answer[0]
        ]
        assert not wrong, "\n".join(wrong)
        return [None if answer is None else answer[1] for answer in answers]

    def _answer(self, rank: int, function: Callable[..., Any], deadline: float) -> Any:
        ready, _, _ = select.select([self._answers[rank]], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            self.close()
            raise AssertionError(f"rank {rank} hangs in {function.__qualname__}")
        return read(self._answers[rank])

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._leader.pid, signal.SIGKILL)
        self._leader.wait()
        for fd in (*self._commands, *self._answers):
            with contextlib.suppress(OSError):
                os.close(fd)


def write(fd: int, value: Any) -> None:
    data = pickle.dumps(value)
    with os.fdopen(os.dup(fd), "wb") as pipe:
        pipe.write(struct.pack("<q", len(data)) + data)


def read(fd: int) -> Any:
    """Return the next value; None at the end."""
    with os.fdopen(os.dup(fd), "rb", buffering=0) as pipe:
        head = _exactly(pipe, 8)
        return None if head is None else pickle.loads(_exactly(pipe, struct.unpack("<q", head)[0]) or b"")


def _exactly(pipe: Any, n: int) -> bytes | None:
    data = b""
    while len(data) < n:
        if not (part := pipe.read(n - len(data))):
            return None
        data += part
    return data


def lead(port: int, fds: list[int]) -> None:
    """Prepare, then fork the ranks."""
    module, name, args = pickle.load(sys.stdin.buffer)
    getattr(importlib.import_module(module), name)(*args)
    pairs = list(zip(fds[::2], fds[1::2], strict=True))
    for rank, mine in enumerate(pairs):
        if os.fork() == 0:
            for fd in {fd for pair in pairs for fd in pair} - set(mine):
                os.close(fd)
            work(port, len(pairs), rank, *mine)
            os._exit(0)
    for fd in fds:
        os.close(fd)
    for _ in pairs:
        os.wait()


def work(port: int, n_ranks: int, rank: int, commands: int, answers: int) -> None:
    """Run what comes until the pipe is closed."""
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
    lead(int(sys.argv[1]), list(map(int, sys.argv[2:])))
