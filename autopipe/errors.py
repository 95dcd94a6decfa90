"""Every error that autopipe raises on purpose, with what, where, why and a remedy, in that order.

The tree::

    AutopipeError
    ├── ArgumentError (ValueError)        a wrong argument of a public call
    ├── CaptureError (ValueError)         the model has no graph that is right for this call
    ├── PartitionError (ValueError)       no partition of this shape exists
    │   └── InfeasibleError               ... because a limit that the caller set cannot be met
    ├── PlanMismatchError (ValueError)    a plan, a rank or a call that does not belong to this model
    ├── ScheduleError (ValueError)        a schedule that no set of ranks can run
    ├── VerifyError                       the split is not equal to the model
    └── EngineError (RuntimeError)        a stage, a peer or a transfer failed inside a step

User mistakes raise these; ``assert`` is for bugs of our own.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "AutopipeError",
    "CaptureError",
    "EngineError",
    "InfeasibleError",
    "PartitionError",
    "PlanMismatchError",
    "ScheduleError",
    "VerifyError",
]


class AutopipeError(Exception):
    """The root of all errors that autopipe raises on purpose.

    Args:
        what: What went wrong, one sentence.
        where: The place: a file and line, a stage, a node, a rank.
        why: The reason, in the words of the part that noticed.
        remedy: What to do; shown after ``Try:``.

    Example:
        >>> print(AutopipeError("asked for 0 stages.", why="A split has at least one.", remedy="n_stages=2"))
        asked for 0 stages.
          A split has at least one.
          Try: n_stages=2
    """

    def __init__(self, what: str, where: str = "", why: str = "", remedy: str = "") -> None:
        """Keep the four parts and build the message from those that are given."""
        self.what, self.where, self.why, self.remedy = what, where, why, remedy
        lines = [what]
        lines += [f"  {line}" for part in (where, why) if part for line in part.splitlines()]
        if remedy:
            first, *rest = remedy.splitlines()
            lines += [f"  Try: {first}", *(f"       {line}" for line in rest)]
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[AutopipeError], tuple[str, str, str, str]]:
        """Pickle the four parts, so that a rank can send its error to another."""
        return type(self), (self.what, self.where, self.why, self.remedy)


def a_type(value: object) -> str:
    """Return the type of a value with its article, for a message.

    Example:
        >>> a_type(3), a_type("3")
        ('an int', 'a str')
    """
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"


class ArgumentError(AutopipeError, ValueError):
    """A wrong argument of a public call, found before anything was changed."""


class CaptureError(AutopipeError, ValueError):
    """The model has no single graph that is right for this call."""


class PartitionError(AutopipeError, ValueError):
    """No partition of the asked shape exists, or the cost graph is not one."""


class InfeasibleError(PartitionError):
    """No partition meets a limit that the caller set, such as the memory of a rank."""


class PlanMismatchError(AutopipeError, ValueError):
    """A plan, a rank or a call does not belong to this model."""


class ScheduleError(AutopipeError, ValueError):
    """A schedule breaks its own rules, or no set of ranks can run it."""


class VerifyError(AutopipeError):
    """The split model does not give the numbers of the model."""


class EngineError(AutopipeError, RuntimeError):
    """A stage, a peer or a transfer failed inside a step."""
