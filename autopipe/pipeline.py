"""What a user holds: a container of stages that calls like the model, and trains through an engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from autopipe.captures import Captures
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.plan import Plan
from autopipe.ir.schedule import Schedule
from autopipe.ir.stages import StagedModel
from autopipe.ir.timeline import Timeline
from autopipe.rewrite import readable
from autopipe.runtime.parted import check_whole, forget_parted
from autopipe.runtime.whole import run_whole
from autopipe.stage import Stage

if TYPE_CHECKING:
    from autopipe.runtime import Engine
    from autopipe.verify import Verification


class Pipeline:
    """A split model: a container of stages that calls like the model, and makes engines that train it.

    Its stages hold the model's own modules and parameters. ``autopipe.split`` makes one.

    Args:
        model: The user's model.
        plan: Where it is cut, and why.
        captures: Its captures, one a signature.
        example: The microbatch that it was captured with.

    Example:
        >>> import autopipe, torch
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        >>> pipe = autopipe.split(model, 2, (torch.ones(2, 4),))
        >>> len(pipe), [stage.index for stage in pipe], pipe[0].fqns[0]
        (2, [0, 1], '0')
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        captures: Captures,
        example: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        """Hold all four; ``autopipe.split`` calls this."""
        self.model, self.plan = model, plan
        self._captures, self._example = captures, example

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, by index."""
        staged, costs = self._staged, self.plan.partition.stages
        return tuple(Stage(index, staged, self.model, cost) for index, cost in enumerate(costs))

    @property
    def _staged(self) -> StagedModel:
        return self._captures.first

    def __len__(self) -> int:
        """Return how many stages there are."""
        return self.plan.n_stages

    def __getitem__(self, index: int) -> Stage:
        """Return a stage; -1 is the last."""
        return self.stages[index]

    def __iter__(self) -> Iterator[Stage]:
        """Go through the stages in order."""
        return iter(self.stages)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run all stages one after the other; returns exactly what the model returns, with autograd.

        Random operations draw from the user's own stream.

        Args:
            *args: The model's positional arguments, any batch size.
            **kwargs: Its keyword arguments.

        Returns:
            What the model returns.

        Raises:
            EngineError: If an engine over a group trained it: other ranks have the rest.
        """
        check_whole(self.model)
        staged, values = self._captures.staged_for(args, kwargs)
        return run_whole(staged, self.model, values, (args, kwargs))

    def train(self, mode: bool = True) -> Pipeline:
        """Set training mode; the same as ``model.train()``, for the modules are the same.

        Args:
            mode: False for evaluation mode.

        Returns:
            The pipeline.
        """
        self.model.train(mode)
        return self

    def eval(self) -> Pipeline:
        """Set evaluation mode; the same as ``model.eval()``."""
        return self.train(mode=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the model's state, under its own FQNs.

        Raises:
            EngineError: If an engine over a group trained it: other ranks have the rest.
        """
        check_whole(self.model)
        return dict(self.model.state_dict())

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> Any:
        """Load the model's state; the same as ``model.load_state_dict``.

        Args:
            state: FQN -> tensor.
            strict: Whether the names must be exactly the model's.

        Returns:
            What torch returns: the names that were missing or not expected.
        """
        found = self.model.load_state_dict(state, strict=strict)
        forget_parted(self.model)
        return found

    def parameters(self) -> Iterator[nn.Parameter]:
        """Go through the model's parameters."""
        return self.model.parameters()

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Go through the model's parameters with their FQNs."""
        return self.model.named_parameters()

    def engine(
        self,
        devices: Any = None,
        group: Any = None,
        *,
        schedule: str | Schedule | None = None,
        n_microbatches: int | None = None,
        batch_dims: Mapping[str, int | None] | None = None,
        loss_reduction: Literal["mean", "sum"] = "mean",
        seed: int | None = None,
        timeout_s: float = 300,
    ) -> Engine:
        """Make an engine, which runs microbatches through the stages by a schedule.

        Args:
            devices: One device a stage, may repeat; over a group this rank's alone will do. None: where the
                model is.
            group: A torch.distributed process group with the ranks of the plan: each runs its own stages,
                and makes the same calls. None: all stages run in this process.
            schedule: A name or a Schedule; None: the plan's.
            n_microbatches: None: the plan's.
            batch_dims: Argument name -> the dimension that is cut into microbatches, or None; overrides what
                the capture found. One named here may have several entries a sample (the patches of images).
            loss_reduction: "mean" weighs each microbatch's loss by its samples, "sum" adds.
            seed: Of the random operations; None: ``torch.initial_seed()``.
            timeout_s: After how long a peer that does not answer counts as lost.

        Returns:
            The engine; also a context manager.

        Raises:
            ArgumentError: If an argument is wrong, such as a group of another size than the plan.
            PlanMismatchError: On every rank, if the ranks of the group differ.
            EngineError: If a rank does not come in time.
        """
        from autopipe.runtime.build import engine_for
        from autopipe.runtime.rank_zero import plan_of_rank_zero

        if group is not None and self.plan.cost_source == "measured":
            self.plan = plan_of_rank_zero(self.plan, group, timeout_s)
            self._captures = self._captures.cut_by(self.plan.cut)
        if n_microbatches is None and not isinstance(schedule, Schedule):
            n_microbatches = self.schedule.n_microbatches
        return engine_for(
            self.model,
            self._staged,
            self._captures.staged_for,
            group=group,
            devices=devices,
            schedule=schedule or self.schedule.name,
            n_ranks=self.schedule.n_ranks,
            n_microbatches=n_microbatches,
            batch_dims=batch_dims,
            loss_reduction=loss_reduction,
            seed=seed,
            timeout_s=timeout_s,
            recompute=self.plan.partition.running_twice,
        )

    def verify(self) -> Verification:
        """Run split against unsplit, on the example and on other numbers, in train and eval.

        Returns:
            The report; prints as a certificate, or names the first node that differs.

        Raises:
            ArgumentError: If model or example have shapes only, or the stages lie on several devices.
            CaptureError: If the model cannot be captured in train or in eval mode.
            EngineError: If an engine over a group trained it: other ranks have the rest.
        """
        from autopipe.verify import verify

        check_whole(self.model)
        n_ranks, again = self.schedule.n_ranks, self.plan.partition.running_twice
        staged_for = self._captures.staged_for
        return verify(self.model, staged_for, self._example, n_ranks=n_ranks, recompute=again)

    @property
    def schedule(self) -> Schedule:
        """The compute actions of every rank."""
        return self.plan.schedule

    @property
    def cost_graph(self) -> CostGraph | None:
        """What was cut; None if the plan was loaded in its small form."""
        return self.plan.cost_graph

    def summary(self) -> str:
        """Return the table of stages, the proof, and the comparison with what others do."""
        from autopipe.view import summary

        return summary(self.plan)

    def timeline(self) -> Timeline:
        """Return the predicted step."""
        from autopipe.schedule.predict import predict

        return predict(self.schedule, self.plan.partition, self.plan.transfers, self.plan.hardware)

    def draw(self, path: str | Path) -> Path:
        """Write a picture of the partition.

        Args:
            path: Its suffix picks the form: .svg, .html, .dot or .mmd.

        Returns:
            The path.

        Raises:
            ArgumentError: If the suffix is none of them.
        """
        from autopipe.view import draw

        return draw(self.plan, path)

    def draw_timeline(self, path: str | Path) -> Path:
        """Write a picture of the predicted step.

        Args:
            path: Its suffix picks the form: .svg, .txt, or .json for a trace that Perfetto opens.

        Returns:
            The path.

        Raises:
            ArgumentError: If the suffix is none of them.
        """
        from autopipe.view import draw_timeline

        title = f"{self.plan.fingerprint.model} in {len(self)} stages, {self.schedule.name}"
        return draw_timeline(self.timeline(), path, title=title)

    def print_readable(self, print_output: bool = True) -> str:
        """Return the stages as Python code, and write it to the terminal as torch's method of this name does.

        Args:
            print_output: Whether to write it.

        Returns:
            The code.
        """
        text = readable(self._staged)
        if print_output:
            sys.stdout.write(text + "\n")
        return text

    def __repr__(self) -> str:
        """Print model, stages, schedule, bottleneck and bubble in one line."""
        plan, bottleneck = self.plan, self.plan.partition.certificate.bottleneck_ms
        bubble = plan.predictions["bubble_fraction"]
        return (
            f"Pipeline({plan.fingerprint.model}, {plan.n_stages} stages, {plan.schedule.name} x "
            f"{plan.schedule.n_microbatches} microbatches, bottleneck {bottleneck:.3g} ms, "
            f"bubble {100 * bubble:.0f} %)"
        )
