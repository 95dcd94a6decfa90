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
        kind: "opaque", "fixed size", "condition", "sets" or "one stage".
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
    return [*_opaque(traced), *_sizes(traced), *_sets(traced), *_together(traced)]


def arguments(model: nn.Module, traced: TracedModel) -> list[tuple[str, str]]:
    """Return name and tensor of each argument, such as ``("tokens", "i64[B, L32]")``."""
    names = argument_names(model, traced.in_structure)
    return [(name, str(leaf.spec)) for name, leaf in zip(names, traced.inputs, strict=True)]


def _opaque(traced: TracedModel) -> Iterator[Finding]:
    reasons = {info.fqn: info for info in traced.info.values() if info.opaque_because}
    for fqn, info in reasons.items():
        reason, at, line = info.opaque_because.partition(" at ")
        if "random numbers" in reason:
            remedy = (
                "set the probability at that line to 0 (transformers: config.layerdrop), or let each "
                "layer decide for itself in a module around it: return x if torch.rand([]) < p else layer(x)"
            )
        elif "depends on data" in reason:
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
    if isinstance(traced.derived_sizes.get("B"), int) or "B" not in traced.sizes:
        yield Finding(
            "fixed size",
            "the batch",
            "microbatches of another size are captured again, when they first come",
            where=traced.where.get("B", ""),
            remedy="no Python number made from a batch size (int(x.shape[0])) in the model's forward.",
        )
    for size, value in traced.derived_sizes.items():
        if size == "B":
            continue
        is_number = isinstance(value, int)
        yield Finding(
            "fixed size",
            f"{size} is {value}",
            "the model's Python counts it (a loop, an int); another value is captured again"
            if is_number
            else "the model makes the two equal; other sizes are captured again",
            where=traced.where.get(size, ""),
            remedy="none, if it is always so; else a tensor operation over that dimension in the place of a "
            "loop or an int at that line"
            if is_number
            else "",
        )
    for guard in traced.guards:
        yield Finding(
            "condition",
            guard,
            "this graph is for such sizes; others are captured again",
            where=traced.where.get(guard, ""),
        )


def _sets(traced: TracedModel) -> Iterator[Finding]:
    for write in traced.sets:
        yield Finding(
            "sets",
            str(write),
            "forward sets it to the same in every call; a call of the split model sets it, too",
        )


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
            "an operation that makes a new tensor (x = x + y) in the place of one that writes (x += y)",
        )
