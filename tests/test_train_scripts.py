"""The scripts of README.md and docs/how-to/torchrun.md print what the pages say, in one and two processes."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import checkpoint

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
HOW_TO = (ROOT / "docs" / "how-to" / "torchrun.md").read_text("utf-8")
SCRIPT = re.compile(r"```python title=train.py\n(.*?)```", re.DOTALL)
SHOWN = re.compile(r"You should see.*?```text\n(.*?)```", re.DOTALL)

NAMES = ("readme", "how_to")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds the scripts, and is where they are started."""
    for name, page in zip(NAMES, (README, HOW_TO), strict=True):
        script = SCRIPT.search(page)
        assert script is not None
        (tmp_path / f"{name}.py").write_text(script[1], "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAVE_TO", "saved")
    return tmp_path


def assert_as_shown(printed: str) -> None:
    shown = SHOWN.search(HOW_TO)
    assert shown is not None
    first, _, rest = printed.partition("\n")
    assert f"both print `{first}`" in README
    assert rest == shown[1]


def assert_the_checkpoint_loads(folder: Path) -> None:
    """As the page says, into the unsplit model; it was trained."""
    script: dict[str, Any] = runpy.run_path(str(folder / "how_to.py"))
    model = script["build"]()
    state = model.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    checkpoint.load(state, checkpoint_id=str(folder / "saved"))
    model.load_state_dict(state)
    assert not any(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_on_one_process_the_scripts_print_what_the_pages_say(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        runpy.run_path(str(folder / f"{name}.py"), run_name="__main__")
    assert_as_shown(capsys.readouterr().out)
    assert_the_checkpoint_loads(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_under_torchrun_the_scripts_print_what_the_pages_say(folder: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    printed = ""
    for name in NAMES:
        done = subprocess.run(
            [sys.executable, *torchrun, f"{name}.py"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    assert_as_shown(printed)
    assert_the_checkpoint_loads(folder)
