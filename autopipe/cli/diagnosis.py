"""What a capture could not see through, what it fixed to the example, and the smallest change that helps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autopipe.runtime.argument_names import argument_names

if TYPE_CHECKING:
    from torch import nn

    from autopipe.ir.traced import TracedModel


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a reader should know of a capture.

    Args:
        kind: "opaque", "fixed size", "condition" or "one stage".
        subject: The module, the argument, the condition.
        what: What is the case.
        where: File, line and source, or "".
        remedy: The smallest change that would help, or "" where nothing is lost.
    """

    kind: str
    subject: str
    what: str
    where: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        """Kind and subject, and what else there is on lines of its own."""
        remedy = f"Try: {self.remedy}" if self.remedy else ""
        parts = [part for part in (self.what, self.where, remedy) if part]
        return "\n".join([f" {self.kind}: {self.subject}", *(f"   {part}" for part in parts)])


def findings(traced: TracedModel) -> list[Finding]:
    """Look through a capture.

    Args:
        traced: The capture.

    Returns:
        The findings: opaque modules first, then sizes, then what must share a stage.
    """
    return [*_opaque(traced), *_sizes(traced), *_together(traced)]


def arguments(model: nn.Module, traced: TracedModel) -> list[tuple[str, str]]:
    """Return name and tensor of each argument, such as ``("tokens", "i64[B, L32]")``."""
    names = argument_names(model, traced.in_structure)
    return [(name, str(leaf.spec)) for name, leaf in zip(names, traced.inputs, strict=True)]


def _opaque(traced: TracedModel) -> Iterator[Finding]:
    reasons = {info.fqn: info for info in traced.info.values() if info.opaque_because}
    for fqn, info in reasons.items():
        reason, at, line = info.opaque_because.partition(" at ")
        if "depends on data" in reason:
            remedy = "torch.where or torch.cond for that line, or a smaller module that holds only it."
        elif "opaque=" in reason or "hooks" in reason:
            remedy = ""
        else:
            remedy = "change that line, or move it into a smaller module."
        yield Finding(
            "opaque",
            fqn,
            f"one node that runs its own Python, and is never cut: {reason}",
            f"at {line}" if at else info.source and f"called at {info.source}",
            remedy,
        )


def _sizes(traced: TracedModel) -> Iterator[Finding]:
    known = {**traced.sizes, **traced.derived_sizes}
    if "B" not in known:
        yield Finding(
            "fixed size",
            "the batch",
            "microbatches of another size are captured again, when they first come",
            remedy="no Python number made from a batch size (int(x.shape[0])) in the model's forward.",
        )
    for size, value in traced.derived_sizes.items():
        yield Finding(
            "fixed size",
            f"{size} is {value}",
            "the model's Python counts it (a loop, an int); another value is captured again",
        )
    for guard in traced.guards:
        yield Finding("condition", guard, "this graph is for such sizes; others are captured again")


def _together(traced: TracedModel) -> Iterator[Finding]:
    for group in traced.together:
        lines = [
            traced.info[name].source for name in group if name in traced.info and traced.info[name].source
        ]
        yield Finding(
            "one stage",
            f"{group[0]} ... {group[-1]} ({len(group)} nodes)",
            "they share memory that one of them writes, so no cut falls between them",
            f"at {lines[0]}" if lines else "",
        )
