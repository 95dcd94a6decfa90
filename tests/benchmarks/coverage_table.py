"""What became of each architecture, one line a family, and the record of a run."""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from tests.benchmarks.coverage_runs import N_MICROBATCHES, N_STAGES

METHOD = """\
Each model is built small from its own config class and runs unsplit first, twice from one seed; what
does not run, or differs from itself, does not count. Equal: the loss and every gradient of the 1F1B
step are those of the plain loop over the microbatches (of one stage, where the model draws random
numbers, and one stage is the plain model); where they differ by more than rounding explains, float64
decides, in which rounding is nothing and a lost gradient is what it was. Bitwise: called whole, the
pipeline gives the model's loss and gradients bit by bit. Opaque: equal, with a module kept whole that
has children. Explained: refused with an AutopipeError. torch: torch.distributed.pipelining on the same
model, where it was asked: cut at its blocks by parameters, dropout off, over gloo; once as it is, and
if that fails returning its logits, whichever is better."""
"""What the words in the table mean."""

RECORDS = Path(__file__).parents[2] / "docs" / "benchmarks"
VERDICTS = ("equal", "explained", "raised", "wrong")
PEER = ("equal", "raised", "wrong")


@dataclass(frozen=True)
class Result:
    """What became of one architecture.

    Args:
        kind: Its family.
        name: Its class.
        verdict: One of ``VERDICTS``, or why it does not count.
        note: What differs, what was raised, or which modules are opaque and why.
        n_opaque: How many nodes are.
        is_bitwise: Whether the pipeline, called whole, gives the model's numbers bit by bit.
        is_random: Whether the model draws random numbers.
        split_s: CPU seconds of ``split`` into four stages.
        peer: What torch.distributed.pipelining gave.
        peer_note: Why.
    """

    kind: str
    name: str
    verdict: str
    note: str = ""
    n_opaque: int = 0
    is_bitwise: bool = False
    is_random: bool = False
    split_s: float = 0.0
    peer: str = ""
    peer_note: str = ""

    @property
    def is_counted(self) -> bool:
        """Whether the model runs, and twice the same."""
        return self.verdict in VERDICTS


def table(results: list[Result]) -> str:
    """One line a family, torch.distributed.pipelining beside it."""
    kinds = list(dict.fromkeys(result.kind for result in results))
    head = [*VERDICTS, "bitwise", "opaque", *(f"torch: {verdict}" for verdict in PEER)]
    lines = [f"| {'family':<20} | counted | {' | '.join(head)} |", "|---|" + "---:|" * (len(head) + 1)]
    for kind in [*kinds, "all"]:
        mine = [result for result in results if kind in (result.kind, "all") and result.is_counted]
        count, peer = Counter(result.verdict for result in mine), Counter(result.peer for result in mine)
        equal = [result for result in mine if result.verdict == "equal"]
        cells = [
            len(mine),
            *(count[verdict] for verdict in VERDICTS),
            sum(result.is_bitwise for result in equal),
            sum(result.n_opaque > 0 for result in equal),
            *(peer[verdict] for verdict in PEER),
        ]
        lines.append(f"| {kind:<20} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def write_record(results: list[Result], n_wanted: int) -> None:
    """Write docs/benchmarks/capture-coverage-DATE.md, of ``n_wanted`` architectures those judged so far."""
    import transformers

    RECORDS.mkdir(exist_ok=True)
    rest = [result for result in results if result.is_counted and result.verdict != "equal"]
    out = [result for result in results if not result.is_counted]
    lines = [
        f"# Capture coverage, {date.today().isoformat()}",
        "",
        f"`python -m tests.benchmarks.capture_coverage {' '.join(sys.argv[1:])}`, torch {torch.__version__}, "
        f"transformers {transformers.__version__}{_versions()}, one thread of a CPU; {N_STAGES} stages, "
        f"{N_MICROBATCHES} microbatches, 1F1B. Judged so far: {len(results)} of {n_wanted} architectures.",
        "",
        METHOD,
        "",
        table(results),
        "",
        "## Not equal",
        "",
        *[f"- {result.verdict}: {result.name} ({result.kind}): {_line(result.note)}" for result in rest],
        "",
        "## Kept whole somewhere",
        "",
        *[f"- {result.name}: {_line(result.note)}" for result in results if result.n_opaque],
        "",
        "## Not counted",
        "",
        *[f"- {result.name} ({result.kind}), {result.verdict}: {_line(result.note)}" for result in out],
        "",
    ]
    (RECORDS / f"capture-coverage-{date.today().isoformat()}.md").write_text("\n".join(lines))


def _versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = ""
    for name in ("torchvision", "timm"):
        try:
            found += f", {name} {version(name)}"
        except PackageNotFoundError:
            found += f", no {name}"
    return found


def _line(note: str) -> str:
    r"""One line of a note, without the folders that packages and the standard library lie in.

    Example:
        >>> _line("at /home/me/lib/python3.11/random.py:14\n in /env/lib/python3.12/site-packages/a.py")
        'at random.py:14 in a.py'
    """
    without_folder = re.sub(r"\S*/(site-packages|lib/python3\.\d+)/", "", " ".join(note.split()))
    return without_folder.partition(" Try: ")[0]
