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
def test_the_peak_is_the_stages_own(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.weights.peak", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = {way: each for line in done.stdout.splitlines() for way, each in json.loads(line).items()}
    assert found.keys() == set(peak.WAYS)
    one_layer = 4 * peak.WIDTH**2
    for way, each in found.items():
        assert each["stage"] == one_layer * peak.N_LAYERS // peak.N_STAGES == 64 * MIB, way
        # its own, a block that is read or a tensor that is built, and a fixed slack for what Python allocates
        assert each["stage"] < each["rose"] < each["stage"] + one_layer + 12 * MIB, way
