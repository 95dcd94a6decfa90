"""What a forward leaves of its arguments: it may fill a dict, or write into a tensor."""

from __future__ import annotations

from dataclasses import dataclass

from autopipe.ir.structure import Structure


@dataclass(frozen=True, slots=True)
class ChangedArguments:
    """The arguments as they are after a call.

    Args:
        structure: Of ``(args, kwargs)`` after the call.
        names: The node behind each tensor in it; that of the input where it was not written.
        inputs: Which tensor among the arguments each is, the very object; None for one that the forward made.
        lost: Where the arguments are that were changed and not returned, in ``(args, kwargs)``.
    """

    structure: Structure
    names: tuple[str | None, ...]
    inputs: tuple[int | None, ...]
    lost: tuple[str, ...] = ()

    @property
    def made(self) -> dict[str, str]:
        """The values that a call makes: name -> where one finds it in the arguments."""
        triples = zip(self.names, self.inputs, self.structure.paths, strict=True)
        return {name: path for name, index, path in triples if name is not None and name != f"in_{index}"}

    def verify(self) -> None:
        """Check that every tensor has a name; else a bug of autopipe."""
        self.structure.verify()
        assert len(self.names) == len(self.inputs) == self.structure.n_holes, f"{self} does not fit"

    def __str__(self) -> str:
        """Print as ``cache['h'] = add_1``."""
        return (
            ", ".join(f"{path} = {name}" for name, path in self.made.items()) or "values that are no tensors"
        )
