"""What a verification found: a certificate, or the first value that differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from autopipe.errors import VerifyError


@dataclass(frozen=True, slots=True)
class Passed:
    """One comparison of two runs that agree.

    Args:
        flags: "train", "eval" or "as found": the training flags of the modules.
        numbers: What the runs were given: "example", "perturbed", or several of both: "5 microbatches".
        pair: Which two runs.
        counts: Kind of value -> how many of it were compared.
        errors: Value that is not bitwise equal -> largest difference, as a fraction of its largest entry.
    """

    flags: str
    numbers: str
    pair: str
    counts: Mapping[str, int]
    errors: Mapping[str, float]

    def __str__(self) -> str:
        """Print as ``train     example        stages = one graph  1 output, 9 gradients: bitwise``."""
        counted = ", ".join(_count(n, kind) for kind, n in self.counts.items())
        error = "bitwise"
        if self.errors:
            worst = max(self.errors, key=lambda name: self.errors[name])
            n_all = sum(self.counts.values())
            error = f"{n_all - len(self.errors)} of {n_all} bitwise, else {self.errors[worst]:.1e} ({worst})"
        return f"{self.flags:<9} {self.numbers:<14} {self.pair:<19} {counted}: {error}"


@dataclass(frozen=True, slots=True)
class Finding:
    """The first comparison that failed.

    Args:
        flags: As of ``Passed``.
        numbers: As of ``Passed``.
        pair: As of ``Passed``.
        what: What differs first, and by how much.
        where: Node, module, source line and stage of it, or "".
        others: What else differs, one line a kind of value.
    """

    flags: str
    numbers: str
    pair: str
    what: str
    where: str
    others: tuple[str, ...]

    def __str__(self) -> str:
        """Print what and where, then the run, then what else differs."""
        lines = [self.what, *self.where.splitlines(), f"in {self.flags} on the {self.numbers}: {self.pair}"]
        return "\n".join([*lines, *self.others])


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification; prints as a certificate, or says what differs.

    Args:
        model: Name of the model's class.
        n_stages: How many stages.
        passed: The comparisons that agree, in the order in which they were made.
        finding: The comparison that does not, or None.
        left_out: What could not be compared, and why; "" if everything was.

    Example:
        >>> ran = Passed("train", "example", "2 stages = 1 graph", {"output": 1, "gradient": 4}, {})
        >>> print(Verification("GPT", 2, (ran,)))
        GPT in 2 stages gives the numbers of the model.
          train     example        2 stages = 1 graph  1 output, 4 gradients: bitwise
    """

    model: str
    n_stages: int
    passed: tuple[Passed, ...]
    finding: Finding | None = None
    left_out: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether the split gives the numbers of the model."""
        return self.finding is None

    def raise_if_different(self) -> None:
        """Raise unless the split gives the numbers of the model.

        Raises:
            VerifyError: Naming the first value that differs, its module and source line.
        """
        if self.finding is not None:
            raise VerifyError(
                f"{self.model} in {self.n_stages} stages differs from the model: {self.finding.what}",
                self.finding.where,
                "\n".join(str(self.finding).splitlines()[1 + len(self.finding.where.splitlines()) :]),
                "opaque=(...) with the module named above keeps it whole; print(pipe.verify()) shows this "
                "again.",
            )

    def __str__(self) -> str:
        """Print the certificate, or the finding under what was still equal."""
        stages = f"{self.n_stages} stage{'s' * (self.n_stages != 1)}"
        verdict = "gives the numbers of the model." if self.is_equal else "DIFFERS from the model."
        lines = [f"{self.model} in {stages} {verdict}"]
        lines += [f"  {each}" for each in self.passed]
        if self.finding is not None:
            lines += [f"  {line}" for line in str(self.finding).splitlines()]
        if self.left_out:
            lines.append(f"  {self.left_out}")
        return "\n".join(lines)


def _count(n: int, kind: str) -> str:
    return f"{n} {kind}{'s' if n != 1 and kind != 'loss' else ''}"
