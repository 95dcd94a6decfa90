"""The script of docs/how-to/torchrun.md prints what the page says, on one process and on two."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "how-to" / "torchrun.md").read_text("utf-8")
STARTS = {
    "one process": (),
    "two processes": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
}

LOAD = """
import torch.distributed.checkpoint as checkpoint
from train import build
model = build()
state = model.state_dict()
checkpoint.load(state, checkpoint_id="saved")
model.load_state_dict(state)
"""


def run(folder: Path, *arguments: str) -> str:
    paths = os.pathsep.join([str(ROOT), str(folder)])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "SAVE_TO": "saved"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
def test_the_script_prints_what_the_page_says_and_its_checkpoint_loads(start: str, tmp_path: Path) -> None:
    script = re.search(r"```python title=train.py\n(.*?)```", PAGE, re.DOTALL)
    shown = re.search(r"You should see.*?```text\n(.*?)```", PAGE, re.DOTALL)
    assert script is not None
    assert shown is not None
    (tmp_path / "train.py").write_text(script[1], "utf-8")
    assert run(tmp_path, *STARTS[start], "train.py") == shown[1]
    run(tmp_path, "-W", "ignore", "-c", LOAD)
