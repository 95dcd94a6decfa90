"""One run of the model on fake tensors, with some sizes open and some modules kept whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config as symbolic_config

from autopipe.errors import CaptureError
from autopipe.ir.changed_arguments import ChangedArguments
from autopipe.ir.structure import Structure
from autopipe.ir.tensor import SizeExpression, TensorSpec
from autopipe.ir.traced import AttributeWrite, InputLeaf, TracedModel
from autopipe.trace.after_call import AfterCall
from autopipe.trace.branches import Branches
from autopipe.trace.dead import without_dead_nodes
from autopipe.trace.decided_booleans import booleans_decided
from autopipe.trace.eager_dropout import eager_dropout
from autopipe.trace.fakes import fake_arguments, fake_weights
from autopipe.trace.leaf_calls import LeafCalls
from autopipe.trace.left_out_masks import masks_as_unsplit
from autopipe.trace.located import LocatedShapeEnv
from autopipe.trace.modes import Interception
from autopipe.trace.program import Program, dtype_name
from autopipe.trace.recorder import Recorder
from autopipe.trace.signature import example_device
from autopipe.trace.sizes import Openness, Sizes
from autopipe.trace.source import line_of_frame


@dataclass(frozen=True, slots=True)
class Example:
    """The arguments of one microbatch.

    Args:
        structure: The arguments without their tensors.
        tensors: The tensors, real, fake or meta.
        batch_dims: The batch dimension of each, or None.
    """

    structure: Structure
    tensors: tuple[torch.Tensor, ...]
    batch_dims: tuple[int | None, ...]


class Attempt:
    """Captures the model, or fails and knows which modules to keep whole the next time.

    Args:
        model: The model.
        example: The arguments.
        openness: Which sizes stay open.
        opaque: Says of a module's FQN whether the user wants it whole.
        whole: Modules that earlier attempts could not see through, and why.
        branches: What earlier attempts have learnt of branches on the values of tensors.
        starting_from: What an earlier call has set on the modules.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        openness: Openness,
        opaque: Callable[[str], bool],
        whole: Mapping[str, str],
        branches: Branches,
        starting_from: Sequence[AttributeWrite] = (),
    ) -> None:
        """Choose the symbolic sizes; nothing runs before ``run``."""
        self._model, self._example = model, example
        device = example_device(model, list(example.tensors))
        self._environment = environment = LocatedShapeEnv(
            allow_scalar_outputs=False, allow_dynamic_output_shape_ops=True
        )
        self._mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
        taken = frozenset(size for parameter in model.parameters() for size in parameter.shape)
        shapes = [tuple(tensor.shape) for tensor in example.tensors]
        self._sizes = Sizes(environment, shapes, openness, example.batch_dims, taken)
        self._changed: ChangedArguments | None = None
        self._loose: frozenset[str] = frozenset()
        self._recorder = Recorder(Program(self._sizes, device), self._mode, branches)
        self._calls = LeafCalls(model, self._recorder, opaque, whole, starting_from)

    @property
    def found_whole(self) -> dict[str, str]:
        """The modules that could not be seen through, and why."""
        return self._calls.found

    @property
    def has_news(self) -> bool:
        """Whether attributes were found whose readers the next attempt has to look out for."""
        return self._calls.has_news

    @property
    def writes(self) -> tuple[AttributeWrite, ...]:
        """The plain values that the model's Python set on modules which are seen through."""
        return tuple(self._calls.writes.values())

    @property
    def calls(self) -> LeafCalls:
        """What it did at each call of a module."""
        return self._calls

    def run(self) -> TracedModel:
        """Run the model.

        Raises:
            CaptureError: If a module was found that has to be kept whole from the start.
            Exception: Whatever the model raises outside of all modules that can be kept whole.
        """
        program, values = self._recorder.program, self._recorder.values
        open_batch = symbolic_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        with open_batch:
            fakes = fake_arguments(self._example.tensors, self._mode, self._sizes, program.device)
            for name in self._sizes.hints:
                self._recorder.arguments.size_placeholder(name)
            for index, fake in enumerate(fakes):
                self._recorder.arguments.input_placeholder(f"in_{index}", fake)
                self._recorder.indices.know(fake, self._example.tensors[index])
                values.exemplify(f"in_{index}", self._example.tensors[index])
            with fake_weights(self._model, self._mode, program.device, values):
                out_structure, out_names = self._run_model(fakes)
        if self._calls.found or self._calls.has_news:
            raise CaptureError(f"cannot see through {', '.join(self._calls.found)}.")
        return self._result(fakes, out_structure, out_names)

    def _run_model(self, fakes: list[torch.Tensor]) -> tuple[Structure, tuple[str | None, ...]]:
        args, kwargs = self._example.structure.fill(fakes)
        interception = Interception(self._recorder, self._calls)
        self._calls.interception = interception
        self._environment.is_in_a_call = lambda: interception.is_inside
        self._environment.decide = self._decided
        dispatch = enable_python_dispatcher()
        after = AfterCall(args, kwargs, fakes)
        masks = masks_as_unsplit(interception.function, lambda: interception.is_inside)
        as_unsplit = (eager_dropout(), booleans_decided(), masks)
        with dispatch, self._mode, interception.on(), self._calls.keeping_state(), ExitStack() as stack:
            for each in as_unsplit:
                stack.enter_context(each)
            out = self._calls.run_root(args, kwargs)
        self._recorder.arguments.settle_objects()
        out_structure, holes = Structure.of(out)
        self._refuse_unknown_sizes([*(hole for hole in holes if not _is_tensor(hole)), *after.left()])
        left = {id(hole): self._recorder.left_in_argument(hole) for hole in after.left()}
        self._changed = after.changed(lambda hole: left[id(hole)], out)
        names = self._recorder.output(holes, list(left.values()) if self._changed else [])
        loose = [name for name, hole in zip(names, holes, strict=True) if name and self._is_loose(hole)]
        self._loose = frozenset(loose)
        return out_structure, names

    def _refuse_unknown_sizes(self, holes: Iterable[Any]) -> None:
        """Check that values decide no size that is handed out, and no tensor that is left in an argument.

        Raises:
            CaptureError: If they do.
        """
        for hole in holes:
            if self._is_loose(hole):
                raise CaptureError(
                    "the sizes of what the model returns depend on the values that it is given.",
                    where=f"in {type(self._model).__qualname__}.forward",
                    remedy="pad to a fixed size, or return a sum or a mean.",
                )

    def _decided(self, condition: Any) -> bool | None:
        """Return which way to go at a condition on sizes that values decide, None if both ways go on."""
        found = self._sizes.condition(condition)
        return (
            None if found is None else self._recorder.decide(found[0], tuple(found[1]), {}, line_of_frame())
        )

    def _is_loose(self, hole: Any) -> bool:
        sizes = hole.shape if _is_tensor(hole) else [hole]
        return any(map(self._sizes.is_decided_by_values, sizes))

    def _result(
        self, fakes: list[torch.Tensor], out: Structure, out_names: tuple[str | None, ...]
    ) -> TracedModel:
        program, sizes = self._recorder.program, self._sizes
        without_dead_nodes(program.graph, program.info)
        calls = [node for node in program.graph.nodes if node.op in ("call_module", "call_function")]
        alive = {node.name for node in calls if not isinstance(node.target, SizeExpression)}
        modules = dict(self._model.named_modules(remove_duplicate=False))
        called = {str(node.target) for node in calls if node.op == "call_module"}
        traced = TracedModel(
            graph=program.graph,
            info=program.info,
            modules={fqn: modules[fqn] for fqn in sorted(called)},
            constants=_read_constants(program.graph, self._recorder.values.constants)
            | program.written_tensors,
            inputs=self._inputs(fakes),
            in_structure=self._example.structure,
            out_structure=out,
            out_names=out_names,
            sizes=dict(sizes.example),
            derived_sizes=sizes.derived(),
            guards=sizes.guards(),
            together=program.effects.together(alive, program.of_unknown_size()),
            order=program.effects.order(alive),
            device=program.device,
            sets=self.writes,
            where=sizes.where(),
            changed=self._changed,
            loose=self._loose,
        )
        traced.verify()
        return traced

    def _inputs(self, fakes: list[torch.Tensor]) -> tuple[InputLeaf, ...]:
        paths = self._example.structure.paths
        return tuple(
            InputLeaf(f"in_{index}", path, self._input_spec(fake), self._batch_dim(index, fake))
            for index, (path, fake) in enumerate(zip(paths, fakes, strict=True))
        )

    def _input_spec(self, fake: torch.Tensor) -> TensorSpec:
        shape = tuple(self._sizes.printed(size) for size in fake.shape)
        return TensorSpec(shape, dtype_name(fake.dtype), fake.requires_grad)

    def _batch_dim(self, index: int, fake: torch.Tensor) -> int | None:
        """Return the dimension that an argument is cut along: what stayed the batch, else the guessed one."""
        for dim, size in enumerate(fake.shape):
            if self._sizes.printed(size) == "B":
                return dim
        return self._example.batch_dims[index]


def _is_tensor(hole: Any) -> bool:
    return isinstance(hole, torch.Tensor)


def _read_constants(graph: fx.Graph, constants: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    read = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    return {name: constants[name] for name in read if name in constants}
