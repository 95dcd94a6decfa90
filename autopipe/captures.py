"""Every capture of one model, each cut by the same plan, and the one that is right for a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from autopipe.errors import ArgumentError, PlanMismatchError
from autopipe.ir.cut import Cut
from autopipe.ir.stages import StagedModel
from autopipe.ir.structure import Structure
from autopipe.ir.traced import TracedModel
from autopipe.rewrite import rewrite
from autopipe.rewrite.assign import assign
from autopipe.trace import Signature, capture, look_again, signature_of
from autopipe.trace.repeats import make


class Captures:
    """Finds, or makes, the stages that are right for a call.

    A graph is right for its signature and for sizes that meet its guards. A call that none of the graphs is
    right for is captured again; its nodes take their stages from the plan.

    Args:
        model: The user's model.
        cut: Where the plan cuts.
        opaque: Says of a module's FQN whether the user wants it whole.
    """

    def __init__(self, model: nn.Module, cut: Cut, opaque: Callable[[str], bool]) -> None:
        """Start with no capture."""
        self._model, self._cut, self._opaque = model, cut, opaque
        self._known: list[tuple[Signature, list[StagedModel]]] = []
        self._hooks: frozenset[str] | None = None

    @property
    def first(self) -> StagedModel:
        """The stages for the example."""
        return self._known[0][1][0]

    def add(self, traced: TracedModel, signature: Signature) -> StagedModel:
        """Cut a capture by the plan, and keep it."""
        cut = self._cut
        again = {name for name, info in traced.info.items() if info.key in cut.recomputed}
        staged = rewrite(traced, self._model, assign(traced, cut.stage_of_key), cut.n_stages, again)
        for known, versions in self._known:
            if known == signature:
                versions.append(staged)
                return staged
        self._known.append((signature, [staged]))
        if self._hooks is None:
            self._hooks = _with_hooks(signature)
        return staged

    def cut_by(self, cut: Cut) -> Captures:
        """Return the same captures, cut by another plan; themselves if it cuts alike."""
        if cut == self._cut:
            return self
        found = Captures(self._model, cut, self._opaque)
        for signature, versions in self._known:
            for staged in versions:
                found.add(staged.traced, signature)
        return found

    def staged_for(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        batch_dims: tuple[int | None, ...] | None = None,
    ) -> tuple[StagedModel, dict[str, Any]]:
        """Return the stages that are right for a call, and what their arguments are.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            batch_dims: The batch dimension of each tensor among them; None: as the capture finds them.

        Returns:
            The stages; and by name the tensors among the arguments and the values of the symbolic sizes.

        Raises:
            PlanMismatchError: If a container that stages see through has hooks by now.
            CaptureError: If the model cannot be captured for these arguments.
        """
        signature = signature_of(self._model, args, kwargs)
        self._refuse_new_hooks(signature)
        staged, values = self._right_for(signature, args, kwargs, batch_dims)
        if make(self._model, staged.traced.sets, values):
            look_again()
            self._share(signature, signature_of(self._model, args, kwargs))
        return staged, values

    def _right_for(
        self,
        signature: Signature,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        batch_dims: tuple[int | None, ...] | None,
    ) -> tuple[StagedModel, dict[str, Any]]:
        """Find a graph that is right for a call, or capture one."""
        holes = Structure.of((args, kwargs))[1]
        shapes = [tuple(hole.shape) for hole in holes]
        for staged in self._versions(signature):
            if batch_dims is not None and batch_dims != tuple(
                leaf.batch_dim for leaf in staged.traced.inputs
            ):
                continue
            if (sizes := staged.traced.bind(shapes)) is not None:
                return staged, _values(staged, holes, sizes)
        for fixed_sizes in (False, True):
            traced = capture(
                self._model, args, kwargs, opaque=self._opaque, batch_dims=batch_dims, fixed_sizes=fixed_sizes
            )
            if (sizes := traced.bind(shapes)) is not None:
                staged = self.add(traced, signature)
                return staged, _values(staged, holes, sizes)
        raise ArgumentError(f"no graph is right for arguments of the shapes {shapes}.")

    def _versions(self, signature: Signature) -> list[StagedModel]:
        return next((versions for known, versions in self._known if known == signature), [])

    def _share(self, before: Signature, after: Signature) -> None:
        """Let the graphs of a signature be those of another: of the model once it has set what it sets."""
        if not self._versions(after):
            self._known.append((after, list(self._versions(before))))

    def _refuse_new_hooks(self, signature: Signature) -> None:
        new = _with_hooks(signature) - (self._hooks or frozenset())
        if new and self._hooks is not None:
            name = sorted(new)[0]
            raise PlanMismatchError(
                f"{name or 'the model itself'} has hooks that were registered after the split.",
                why="Its stages were built from what is inside it, so nothing calls it any more.",
                remedy="register hooks before autopipe.split, or on a module inside it.",
            )


def _with_hooks(signature: Signature) -> frozenset[str]:
    suffix = " has hooks"
    return frozenset(
        name.removesuffix(suffix)
        for name, value in signature.state
        if value is True and name.endswith(suffix)
    )


def _values(staged: StagedModel, holes: list[Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    names = [leaf.name for leaf in staged.traced.inputs]
    return {**dict(zip(names, holes, strict=True)), **sizes}
