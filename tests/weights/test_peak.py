"""The memory that a stage takes while it gets its values is its own, not the model's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.weights import peak

ROOT = Path(__file__).parents[2]
MIB = 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("way", ["checkpoint", "build", "init"])
def test_the_peak_is_the_stages_own(way: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.peak", way, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout)
    one_layer = 4 * peak.WIDTH**2
    assert found["stage"] == one_layer * peak.N_LAYERS // peak.N_STAGES == 64 * MIB
    # its own, a block that is read or a tensor that is built, and a fixed slack for what Python allocates
    assert found["stage"] < found["rose"] < found["stage"] + one_layer + 12 * MIB
