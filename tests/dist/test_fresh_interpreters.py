"""Ranks that were started as users start them end with the first cause, and leave nothing running."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 60
pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")


class Launch:
    """Some commands, and every process that descends from them: all inherit a mark."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._mark = folder, f"LAUNCH={uuid.uuid4()}"
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *before: str, **variables: str) -> None:
        name, _, value = self._mark.partition("=")
        self._started.append(
            subprocess.Popen(
                [sys.executable, *before, "-m", "tests.dist.fresh", str(self._folder), "1", "B", "1", "1"],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), name: value} | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

    def ended(self) -> list[tuple[int, str]]:
        """Wait for all; return how each ended and what it printed. Nothing that they started may be left."""
        try:
            return [
                (each.wait(), printed) for each, printed in zip(self._started, self._printed(), strict=True)
            ]
        finally:
            left = self._running()
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            assert not left

    def _printed(self) -> list[str]:
        return [each.communicate(timeout=LIMIT_S)[0] for each in self._started]

    def _running(self) -> list[int]:
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # of another user, or gone
                if self._mark.encode() in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parent.name))
        return found


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def test_a_killed_rank_ends_all_that_were_started_by_hand(tmp_path: Path) -> None:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "3"}
    launch = Launch(tmp_path)
    for rank in range(3):
        launch.start(**shared, RANK=str(rank))
    ended = launch.ended()
    assert [code for code, _ in ended] == [1, -signal.SIGKILL, 1], ended
    causes = [(tmp_path / rank).read_text() for rank in "02"]
    assert causes[0] == causes[1]
    assert causes[0].startswith("EngineError: rank 1 does not answer.")
    assert "killed" in causes[0]
    assert not (tmp_path / "1").exists()


def test_torchrun_ends_when_a_rank_is_killed_and_leaves_no_process(tmp_path: Path) -> None:
    launch = Launch(tmp_path)
    launch.start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    ((code, printed),) = launch.ended()
    assert code == 1, printed
    assert "Signal 9 (SIGKILL)" in printed
