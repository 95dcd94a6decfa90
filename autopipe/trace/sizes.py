"""Symbolic sizes: which dimensions of the example stay open, and how expressions over them are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import sympy
import torch
from torch._dynamo.source import ConstantSource
from torch.fx.experimental.symbolic_shapes import DimDynamic, GuardOnDataDependentSymNode, ShapeEnv
from torch.utils._sympy.printers import PythonPrinter

from autopipe.ir.tensor import Size
from autopipe.trace.located import place_of
from autopipe.trace.size_conditions import SizeCondition

SEQUENCE_RANKS = (2, 3)
"""Ranks of the tensors whose second dimension is a length: [batch, length] and [batch, length, width]."""


@dataclass(frozen=True, slots=True)
class Openness:
    """How much of the example's sizes stays open in one attempt to capture.

    Args:
        batch: Whether the batch dimension is symbolic.
        length: Whether sequence lengths are.
        move_batch: Whether the batch is captured at a size that no other dimension has, so that nothing is
            taken for equal to it by chance.
    """

    batch: bool
    length: bool
    move_batch: bool


FIXED_BATCH_ATTEMPTS = (
    Openness(batch=False, length=True, move_batch=False),
    Openness(batch=False, length=False, move_batch=False),
)
ATTEMPTS = (
    Openness(batch=True, length=True, move_batch=True),
    Openness(batch=True, length=True, move_batch=False),
    Openness(batch=True, length=False, move_batch=False),
    *FIXED_BATCH_ATTEMPTS,
)


class _PlainPrinter(PythonPrinter):  # type: ignore[misc, unused-ignore]
    """Prints sizes as Python that needs no torch."""

    def _print_ToFloat(self, expression: Any) -> str:
        return f"float({self._print(expression.args[0])})"

    def _helper_sqrt(self, expression: Any) -> str:
        return f"sqrt({self._print(expression)})"


class Sizes:
    """The symbolic sizes of one capture.

    Args:
        environment: The shape environment of the fake tensors.
        shapes: The shape of each tensor among the arguments.
        openness: What stays open.
        batch_dims: The batch dimension of each tensor, or None.
        taken: Sizes that a moved batch must not take (those of parameters).
    """

    def __init__(
        self,
        environment: ShapeEnv,
        shapes: Sequence[Sequence[int]],
        openness: Openness,
        batch_dims: Sequence[int | None],
        taken: frozenset[int],
    ) -> None:
        """Choose the symbols; ``shape_of`` gives each tensor its open shape."""
        self.environment, self._openness, self._batch_dims = environment, openness, batch_dims
        self._symbols: dict[str, torch.SymInt] = {}
        self.hints: dict[str, int] = {}  # what the model runs at; a moved batch is larger than the example's
        self.example: dict[str, int] = {}
        self._names: dict[sympy.Symbol, sympy.Symbol] = {}
        self._bounds: dict[sympy.Symbol, sympy.Expr] = {}
        self._made: dict[
            sympy.Symbol, tuple[torch.Tensor, int]
        ] = {}  # sizes that values decide -> who has them
        batches = {shape[dim] for shape, dim in zip(shapes, batch_dims, strict=True) if dim is not None}
        self._open_batch = openness.batch and len(batches) == 1
        if self._open_batch:
            batch = batches.pop()
            hint = max(2, batch)
            used = taken | {size for shape in shapes for size in shape}
            while openness.move_batch and hint in used:
                hint += 1
            self._new("B", hint)
            self.example["B"] = batch

    def _new(self, name: str, hint: int) -> torch.SymInt:
        source = ConstantSource(f"__autopipe_{name}")
        symbol = self.environment.create_symbol(
            hint,
            source=source,
            dynamic_dim=DimDynamic.DYNAMIC,
            constraint_dim=None,
            do_not_specialize_zero_one=True,
        )
        size = cast(torch.SymInt, self.environment.create_symintnode(symbol, hint=hint, source=source))
        self._symbols[name], self.hints[name], self.example[name] = size, hint, hint
        self._names[symbol] = sympy.Symbol(name, integer=True, positive=True)
        return size

    def open_shape(self, index: int, shape: Sequence[int], dtype: torch.dtype) -> list[int | torch.SymInt]:
        """Return the shape that argument ``index`` is captured with."""
        opened: list[int | torch.SymInt] = list(shape)
        batch_dim = self._batch_dims[index]
        for dim, size in enumerate(shape):
            if dim == batch_dim and self._open_batch:
                opened[dim] = self._symbols["B"]
            elif self._openness.length and size > 1 and self._is_length(dim, shape, dtype):
                name = f"L{size}"
                opened[dim] = self._symbols[name] if name in self._symbols else self._new(name, size)
        return opened

    def _is_length(self, dim: int, shape: Sequence[int], dtype: torch.dtype) -> bool:
        if dim == 1 and len(shape) in SEQUENCE_RANKS:
            return not (len(shape) == SEQUENCE_RANKS[0] and dtype.is_floating_point)
        return dim > 1 and len(shape) > max(SEQUENCE_RANKS) and not dtype.is_floating_point

    def of_kernels(self, are_blind: bool) -> AbstractContextManager[Any]:
        """While a convolution runs, compare sizes without a guard: it chooses a kernel, not a result."""
        return self.environment.suppress_guards() if are_blind else nullcontext()

    def names_in(self, size: Any) -> list[str]:
        """Return the names of the symbolic sizes in an expression, sorted."""
        expression = self.environment.replace(size.node.expr)
        return sorted(str(self._names[symbol]) for symbol in expression.free_symbols)

    def is_decided_by_values(self, size: Any) -> bool:
        """Whether a size is only known in a run, such as that of ``x[mask]``."""
        if not isinstance(size, torch.SymInt):
            return False
        return not self.environment.replace(size.node.expr).free_symbols <= self._names.keys()

    def bound(self, tensor: torch.Tensor, made_of: Iterable[torch.Tensor]) -> None:
        """Note who has sizes that values decide, and how large they can be: it is selected from others."""
        counts = [self._count(other) for other in made_of] or [sympy.Integer(1)]
        most = max(counts, key=lambda count: int(count.xreplace(self._hinted())))
        for dim, size in enumerate(tensor.shape):
            if isinstance(size, torch.SymInt):
                expression = self.environment.replace(size.node.expr)
                for symbol in expression.free_symbols - self._names.keys():
                    self._bounds.setdefault(symbol, most)
                if expression.is_Symbol and expression not in self._names:
                    self._made.setdefault(expression, (tensor, dim))

    def condition(self, asked: Any) -> tuple[SizeCondition, list[Any]] | None:
        """Return a condition on sizes that values decide as a function of tensors, and these.

        Args:
            asked: The condition, over the symbols of the environment.

        Returns:
            None if nobody has one of the sizes.
        """
        known = sorted(asked.free_symbols & self._names.keys(), key=str)
        unknown = sorted(asked.free_symbols - self._names.keys(), key=str)
        if not unknown or not self._made.keys() >= set(unknown):
            return None
        places = {symbol: sympy.Symbol(f"_{i}", integer=True) for i, symbol in enumerate(unknown)}
        tensors, dims = zip(*(self._made[symbol] for symbol in unknown), strict=True)
        names = [str(self._names[symbol]) for symbol in known]
        condition = SizeCondition(self._print(asked.xreplace(places)), dims, tuple(names))
        return condition, [*tensors, *(self._symbols[name] for name in names)]

    def _count(self, tensor: torch.Tensor) -> Any:
        """Return the number of elements that a tensor has at most, over names."""
        sizes = (size.node.expr if isinstance(size, torch.SymInt) else size for size in tensor.shape)
        return sympy.Mul(*(self._named(self.environment.replace(sympy.sympify(size))) for size in sizes))

    def _hinted(self) -> dict[sympy.Symbol, int]:
        return {name: self.hints[str(name)] for name in self._names.values()}

    def _named(self, expression: Any) -> Any:
        return expression.xreplace(self._names).xreplace(self._bounds)

    def printed(self, size: Any) -> Size:
        """Return an int as it is, a symbolic size as a Python expression over names.

        One that values decide is what it can be at most, which prices it; nothing else may count on it.
        """
        if not isinstance(size, torch.SymInt):
            return int(size)
        printed: Size = self._printed(self.environment.replace(size.node.expr), int)
        return printed

    def printed_number(self, number: torch.SymInt | torch.SymFloat) -> Any:
        """Return a symbolic number as a Python expression over names, or as the number that it is.

        Raises:
            GuardOnDataDependentSymNode: If it is made of a size that values decide.
        """
        expression = self.environment.replace(number.node.expr)
        if not expression.free_symbols <= self._names.keys():
            raise GuardOnDataDependentSymNode(expression, "a size that the values of a tensor decide")
        return self._printed(expression, int if isinstance(number, torch.SymInt) else float)

    def _printed(self, expression: Any, number: type) -> Any:
        named = self._named(expression)
        return number(named) if named.is_number else self._print(named)

    def _print(self, expression: Any) -> str:
        return str(_PlainPrinter().doprint(self._named(expression)))

    def guards(self) -> tuple[str, ...]:
        """Return what must hold of the sizes for the graph to be right, as Python expressions."""
        conditions = (self.environment.replace(guard.expr) for guard in self.environment.guards)
        return tuple(dict.fromkeys(self._print(c) for c in conditions if self._speaks_of_ours(c)))

    def derived(self) -> dict[str, Size]:
        """Return the sizes that turned out not to be open, and what they are in terms of those that are."""
        found: dict[str, Size] = {}
        for symbol, name in self._names.items():
            value = self.environment.replace(symbol)
            if value != symbol:
                found[str(name)] = int(value) if value.is_number else self._print(value)
        return found

    def where(self) -> dict[str, str]:
        """Return where the model's Python looked at a size: guard, or size that is not open -> the line."""
        found: dict[str, str] = {}
        for guard in self.environment.guards:
            condition = self.environment.replace(guard.expr)
            if self._speaks_of_ours(condition):
                found.setdefault(self._print(condition), place_of(guard.sloc))
        for symbol, location in self.environment.replacements_slocs.items():
            if symbol in self._names:
                found[str(self._names[symbol])] = place_of(location)
        return found

    def _speaks_of_ours(self, expression: Any) -> bool:
        return bool(expression.free_symbols) and expression.free_symbols <= self._names.keys()

    @property
    def names(self) -> list[str]:
        """The names of the symbolic sizes that stayed open."""
        return [name for name in self.hints if name not in self.derived()]
