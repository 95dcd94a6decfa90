"""What a call of a module does during capture: a leaf becomes one node, a container is seen through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.jit._fuser import optimized_execution
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import _disable_current_modes

from autopipe.errors import CaptureError
from autopipe.ir.traced import AttributeWrite
from autopipe.trace.branches import RandomBranch, depends_on_data
from autopipe.trace.glue import ON_RANDOM_NUMBERS
from autopipe.trace.leaf_use import LeafUse
from autopipe.trace.leaves import HAS_HOOKS, has_forward_hooks, has_hooks, recording_hooks, why_leaf
from autopipe.trace.modes import Interception, is_in_transform
from autopipe.trace.module_state import PLAIN, ModuleState
from autopipe.trace.rebound import buffers_of, record_replaced
from autopipe.trace.recorder import Recorder
from autopipe.trace.repeats import make
from autopipe.trace.source import line_of_error, line_of_frame
from autopipe.trace.stand_in import fake_results_of_module
from autopipe.trace.streams import kept_streams, refusing_draws, streams
from autopipe.trace.volatile import mark_volatile, refusing_reads

_OWN = (*PLAIN, torch.Tensor, list, dict, set)
"""What a leaf keeps for itself; an object, such as a config, others look at as well."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class LeafCalls:
    """Decides about each call of a module, and records the leaves.

    A container that raises runs on as one node, and is noted in ``found``: the smallest module that cannot be
    seen through is kept whole, its parents are not. What its first try changed (a cache that it was given) is
    changed twice by then, so that the capture has to start again, knowing what was found.

    Args:
        model: The model.
        recorder: Writes the graph.
        opaque: Says of a module's FQN whether the user wants it whole.
        whole: Containers that cannot be seen through, and why: found by earlier attempts.
        starting_from: What an earlier call has set on the modules.
    """

    interception: Interception
    _state: ModuleState

    def __init__(
        self,
        model: nn.Module,
        recorder: Recorder,
        opaque: Callable[[str], bool],
        whole: Mapping[str, str],
        starting_from: Sequence[AttributeWrite] = (),
    ) -> None:
        """Number the modules; one under two names goes by the first."""
        self._root, self._recorder, self._opaque, self._whole = model, recorder, opaque, whole
        self._fqn = {id(module): fqn for fqn, module in model.named_modules()}
        self._seen_through = {""}
        self._starting_from = starting_from
        self._setters: list[tuple[str, list[str]]] = []
        self.writes: dict[tuple[int, str], AttributeWrite] = {}
        self.found: dict[str, str] = {}
        self.has_news = False

    @contextmanager
    def keeping_state(self) -> Iterator[None]:
        """Put back what the model sets on its modules, and find the modules that it would be lost for.

        Raises:
            CaptureError: If it is the model itself that sets attributes.
        """
        self._state = ModuleState(self._root)
        make(self._root, self._starting_from, self._recorder.program.sizes.hints)
        self._state.take_for_granted()
        modules, buffers = list(self._root.modules()), buffers_of(self._root)
        try:
            with refusing_reads(modules, lambda: self.interception.is_inside):
                yield
            with self.interception.inside():
                record_replaced(self._root, buffers, self._recorder)
            self._state.put_back(self._recorder.values.is_the_same)
            for module, names in self._state.changed():
                self._note_writes(self._fqn[id(module)], module, names)
        finally:
            self._state.restore()

    def _note_writes(self, fqn: str, module: nn.Module, names: list[str]) -> None:
        """Note what a module seen through sets: plain values the graph may set, others would be lost."""
        changes = {name: self._state.plain_changes(module, name) for name in names}
        values = [value for found in changes.values() for _, _, value in found or ()]
        if None in changes.values() or any(map(self._recorder.program.sizes.is_decided_by_values, values)):
            self._keep_setter_whole(fqn, self._state.spelled(module, names))
            return
        self._setters.append((fqn, names))
        for name, found in changes.items():
            for whose, key, value in found or ():
                write = AttributeWrite(fqn, name, key, *self._written(value))
                self.writes.setdefault((whose, key or name), write)

    def _written(self, value: Any) -> tuple[Any, bool]:
        """Return a plain value, or a size as an expression if it is open, and whether it is that."""
        if not isinstance(value, torch.SymInt):
            return value, False
        printed = self._recorder.program.sizes.printed_number(value)
        return printed, isinstance(printed, str)

    def keep_setters_whole(self, why: str, moved: Collection[str] = ()) -> None:
        """Keep the modules whole that set attributes, for it is not the same on every call.

        Args:
            why: What is not the same.
            moved: The modules whose attributes are not; none: it may be any.

        Raises:
            CaptureError: If it is the model itself that sets attributes.
        """
        for fqn, names in self._setters:
            if not moved or fqn in moved:
                self._keep_setter_whole(fqn, names, why)

    def _keep_setter_whole(self, fqn: str, names: list[str], why: str = "") -> None:
        setter = fqn
        while setter not in self._seen_through:
            setter = setter.rpartition(".")[0]
        what = ", ".join(f"{fqn}.{name}" if fqn else name for name in names)
        if not setter:
            raise CaptureError(
                f"the model's forward sets {what}, which a graph would forget.",
                where=f"in {type(self._root).__qualname__}.forward",
                why=f"It is not the same on every call: {why}." if why else "",
                remedy="return it, set it in __init__, or do it in a module inside the model, which is then "
                "kept whole.",
            )
        self.found[setter] = f"its forward sets {what}, which a graph would forget"

    def run_root(self, args: Any, kwargs: Any) -> Any:
        """Run the model's forward."""
        with kept_streams(), refusing_draws(self._root):
            return self._root.forward(*args, **kwargs)

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Call a module that the model's Python calls."""
        fqn = self._fqn.get(id(module))
        if fqn is None or module is self._root or is_in_transform():
            return self._unnamed(module, args, kwargs)
        reason = self._why_whole(fqn, module)
        if reason is None or (not reason and self._runs_with_other_weights(module)):
            out = self._see_through(fqn, module, args, kwargs)
        else:
            with kept_streams():
                out = self._leaf(fqn, module, args, kwargs, reason)
        for hook in recording_hooks(module):
            hook(module, args, out)
        return out

    def _unnamed(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if module is not self._root and has_hooks(module):
            raise CaptureError(
                f"a {type(module).__name__} with hooks is called, and it is not registered in the model, or "
                "under torch.func.",
                where=line_of_frame(),
                remedy="register it as an attribute of the module that calls it, or take the hooks off",
            )
        return module.forward(*args, **kwargs)

    def _why_whole(self, fqn: str, module: nn.Module) -> str | None:
        if self._opaque(fqn):
            return "opaque= names it"
        return self._whole.get(fqn) or why_leaf(module)

    def _runs_with_other_weights(self, module: nn.Module) -> bool:
        """Whether a leaf is called with weights that are not its own, as by ``torch.func.functional_call``.

        Its node would run with its own, so that it is the functions inside that become nodes.
        """
        return self._state.has_other_weights(module) and not has_hooks(module)

    def _see_through(self, fqn: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        self._seen_through.add(fqn)
        modules = self._recorder.program.modules
        modules.append(fqn)
        try:
            with refusing_draws(module):
                return module.forward(*args, **kwargs)
        except Exception as error:
            if self._recorder.branches.is_trial:
                raise
            self.found[fqn] = _reason(error)
        finally:
            modules.pop()
        with kept_streams():
            return self._leaf(fqn, module, args, kwargs, self.found[fqn])

    def _leaf(self, fqn: str, module: nn.Module, args: Any, kwargs: Any, reason: str) -> Any:
        changed = self._state.changed_in(module)
        if changed and fqn not in self.found:
            if self._state.has_other_weights(module):
                raise CaptureError(
                    f"{fqn} is called with weights that are not its own, and it is kept whole, with its own: "
                    f"{reason or HAS_HOOKS}.",
                    where=line_of_frame(),
                )
            raise CaptureError(f"it sets {', '.join(changed)} of {fqn}, which a graph would forget.")

        self._recorder.branches.note_module()

        def run(*args: Any, **kwargs: Any) -> Any:
            recorder, before = self._recorder, streams()
            try:
                with self._recorder.program.sizes.of_kernels(isinstance(module, _ConvNd)):
                    return _uncompiled(module).forward(*args, **kwargs)
            except Exception as error:
                recorder.is_learnt = True
                return fake_results_of_module(error, module, args, kwargs, recorder)
            finally:
                recorder.draws_outside_torch = recorder.is_learnt or streams() != before
                recorder.is_random |= recorder.draws_outside_torch

        with self.interception.inside():
            parameters, buffers = self._recorder.values.owned_by(module)
            if isinstance(module, torch.jit.ScriptModule):  # it writes its own, which no fake one tells of
                run = partial(_scripted, module, run, buffers.values())
            use = LeafUse(parameters, buffers, reason, has_forward_hooks(module), module)
            out = self._recorder.call_module(fqn, args, kwargs, run, use)
        self._note_state(fqn, module)
        return out

    def _note_state(self, fqn: str, module: nn.Module) -> None:
        """Keep the calls of a leaf that changes its own attributes in one stage; see who else reads them."""
        nodes = reversed(self._recorder.program.graph.nodes)
        node = next(node.name for node in nodes if node.op == "call_module" and node.target == fqn)
        changed = self._state.accept(module)
        for inner in module.modules():
            state = f"the attributes of {self._fqn.get(id(inner), id(inner))}"
            changes = any(inner is other for other, _ in changed)
            self._recorder.program.effects.uses_attribute(state, node, changes=changes)
        for inner, names in changed:
            if type(inner).__module__.startswith("torch.nn."):
                continue  # such as the weights in a list that an LSTM makes anew: nobody else reads them
            for name in names:
                if name not in _OF_EVERY_MODULE and isinstance(vars(inner).get(name), _OWN):
                    self.has_news |= mark_volatile(inner, name)


def _scripted(
    module: nn.Module, run: Callable[..., Any], fakes: Iterable[torch.Tensor], *args: Any, **kwargs: Any
) -> Any:
    """Run a module of TorchScript; its interpreter must learn nothing from fake tensors, nor its buffers."""
    for fake in fakes:
        torch.autograd.graph.increment_version(fake)
    with _disable_current_modes():
        before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with optimized_execution(False):
            return run(*args, **kwargs)
    finally:
        with _disable_current_modes(), torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def _uncompiled(module: nn.Module) -> nn.Module:
    """Return the module under ``torch.compile``."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def _reason(error: Exception) -> str:
    """Say why a container is kept whole, from what its forward raised on fake tensors."""
    if isinstance(error, RandomBranch):
        what = ON_RANDOM_NUMBERS
    elif depends_on_data(error):
        what = "it depends on data"
    else:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
    found = error.where if isinstance(error, CaptureError) and error.where.startswith("at ") else ""
    return f"{what} {found or line_of_error(error.__traceback__)}".strip()
