"""The model and the example that a command line asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from autopipe.cli.command import users_code
from autopipe.cli.settings import parse_settings
from autopipe.cli.spec import thing_at
from autopipe.errors import ArgumentError
from autopipe.progress import progress

if TYPE_CHECKING:
    from torch import nn


class LoadedModel(NamedTuple):
    """A model, and one microbatch for it."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where the model comes from.

    Args:
        spec: ``module:callable``, ``file.py:callable``, or the path of a transformers config.json.
        example: ``module:callable`` of the example, or None.
        settings: Texts ``name=value``: keyword arguments of both callables, or fields of the configuration.
        batch: Samples of the example, or None.
        length: Tokens of a sample, or None.
        meta: Whether the model is built without memory for its weights.
    """

    spec: str
    example: str | None
    settings: tuple[str, ...]
    batch: int | None
    length: int | None
    meta: bool

    def load(self) -> LoadedModel:
        """Build the model and its example.

        Raises:
            ArgumentError: If a spec is wrong, or if the user's code raises or returns something else.
        """
        settings = parse_settings(self.settings)
        with progress(None) as say:
            say("building the model")
            config = config_path(self.spec)
            if config is None:
                return self._called(settings)
            from autopipe.cli.config_json import example_for, model_from

            model = model_from(config, settings)
            if self.example is not None:
                return LoadedModel(model, *self._example(settings))
            return LoadedModel(model, (), example_for(model, config, self.batch, self.length))

    def _called(self, settings: Mapping[str, Any]) -> LoadedModel:
        import torch
        from torch import nn

        model = thing_at(self.spec, "MODEL")
        if not isinstance(model, nn.Module):
            build = _checked_callable(model, self.spec, "MODEL")
            with users_code(f"MODEL: {self.spec}"), torch.device("meta") if self.meta else nullcontext():
                model = build(**settings)
        elif settings:
            raise ArgumentError(f"--set: {self.spec} is a model already, so there is nothing to set.")
        if not isinstance(model, nn.Module):
            raise ArgumentError(f"MODEL: {self.spec} gives no torch.nn.Module but: {type(model).__name__}.")
        if self.example is not None:
            return LoadedModel(model, *self._example(settings))
        if self.batch is not None or self.length is not None:
            raise ArgumentError(
                "--batch and --length have no example to shape.", remedy="--example module:callable"
            )
        return LoadedModel(model, *_carried(model))

    def _example(self, settings: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        assert self.example is not None
        make = _checked_callable(thing_at(self.example, "--example"), self.example, "--example")
        shape = {"batch": self.batch, "length": self.length}
        asked = {name: value for name, value in shape.items() if value is not None}
        taken = _taken(make, {**settings, **asked})
        if missing := [name for name in asked if name not in taken]:
            raise ArgumentError(f"--{missing[0]}: {self.example} takes no argument {missing[0]!r}.")
        with users_code(f"--example: {self.example}"):
            example = make(**taken)
        args, kwargs = as_call(example, self.example)
        return _on_meta(args, kwargs) if self.meta or config_path(self.spec) else (args, kwargs)


def config_path(spec: str) -> Path | None:
    """Return the configuration file that a spec names, by itself or by its folder; None for a callable.

    Raises:
        ArgumentError: If there is no such file.
    """
    path = Path(spec)
    if spec and path.is_dir():
        path /= "config.json"
    if path.suffix != ".json":
        return None
    if not path.is_file():
        raise ArgumentError(f"MODEL: there is no file {path}.", where=f"in {Path.cwd()}")
    return path


def as_call(example: object, spec: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Read an example: a tuple of arguments, a dict of keyword arguments, or a pair of both.

    Args:
        example: What the callable returned.
        spec: Its spec, for messages.

    Raises:
        ArgumentError: If it is none of these.

    Example:
        >>> as_call((1, 2), "m:f"), as_call({"x": 1}, "m:f"), as_call(((1,), {"x": 2}), "m:f")
        (((1, 2), {}), ((), {'x': 1}), ((1,), {'x': 2}))
    """
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple):
        pair = len(example) == 2 and isinstance(example[0], tuple) and isinstance(example[1], Mapping)
        return (example[0], dict(example[1])) if pair else (example, {})
    raise ArgumentError(
        f"--example: {spec} returns a {type(example).__name__}.",
        remedy="return a tuple of arguments, a dict of keyword arguments, or (args, kwargs).",
    )


def _carried(model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The example that the model itself has."""
    from autopipe.example import example_of

    try:
        return example_of(model, None, None)
    except ArgumentError as error:
        raise ArgumentError(error.what, why=error.why, remedy="--example module:callable") from None


def _checked_callable(thing: object, spec: str, option: str) -> Callable[..., Any]:
    if not callable(thing):
        raise ArgumentError(f"{option}: {spec} cannot be called; its type is {type(thing).__name__}.")
    return thing


def _taken(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the function has parameters for."""
    parameters = inspect.signature(function).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return dict(settings)
    names = {one.name for one in parameters}
    return {name: value for name, value in settings.items() if name in names}


def _on_meta(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Only shapes and dtypes of the example are looked at, where the model has no numbers either."""
    import torch
    from torch.utils import _pytree as pytree

    moved: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map_only(
        torch.Tensor, lambda tensor: tensor.to("meta"), (args, kwargs)
    )
    return moved
