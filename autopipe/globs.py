"""Globs over FQNs: which modules the caller means, and what is wrong with those that mean none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations

from autopipe.errors import ArgumentError, a_type
from autopipe.ir.integers import is_int

_NAMED = 4
"""So many names of the model are told to a glob that matches none."""


def matching(globs: Iterable[str], names: Iterable[str]) -> Callable[[str], str | None]:
    """Return a function from an FQN to the outermost matched module that holds it, or None."""
    matched = {name for name in names if any(fnmatchcase(name, glob) for glob in globs)}

    def holder(fqn: str) -> str | None:
        parts = fqn.split(".")
        prefixes = (".".join(parts[: i + 1]) for i in range(len(parts)))
        return next((prefix for prefix in prefixes if prefix in matched), None)

    return holder


def checked_globs(argument: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the globs of an argument.

    Raises:
        ArgumentError: If it is no sequence of texts.
    """
    if not _is_globs(given):
        raise ArgumentError(
            f"{argument}={given!r} is no tuple of globs.",
            remedy=f"{argument}=('blocks.*',), with the comma.",
        )
    return tuple(given)


def checked_groups(argument: str, given: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of globs of an argument.

    Raises:
        ArgumentError: If it is no sequence of sequences of texts.
    """
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(map(_is_globs, given)):
        meant = (tuple(given),) if _is_globs(given) else (("embed", "head"),)
        raise ArgumentError(
            f"{argument}={given!r} is no tuple of groups of globs.",
            remedy=f"{argument}={meant!r}, with the comma.",
        )
    return tuple(tuple(group) for group in given)


def check_matches(
    argument: str, globs: Iterable[str], modules: Sequence[str], parameters: Sequence[str] | None = None
) -> None:
    """Check that every glob means something.

    Args:
        argument: Whose globs they are.
        globs: The globs.
        modules: FQNs of the modules.
        parameters: FQNs of the parameters; None where the argument is about modules only.

    Raises:
        ArgumentError: Naming the glob that is empty, or matches none of the names.
    """
    names = [*modules, *(parameters or ())]
    for glob in globs:
        deeper = repr(f"*.{glob}" if glob else "blocks.*")
        shown = {"pin": f"{{{deeper}: 0}}", "same_stage": f"(({deeper}, ...),)"}.get(argument, f"({deeper},)")
        if not glob:
            raise ArgumentError(f"{argument}: a glob is empty.", remedy=f"{argument}={shown}")
        if not any(fnmatchcase(name, glob) for name in names):
            some = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
            parts = "module" if parameters is None else "module and no parameter"
            raise ArgumentError(
                f"{argument}: the glob {glob!r} matches no {parts} of the model.",
                why=f"Its names are {some}" if some else "The model has none.",
                remedy=f"autopipe matches whole names: {argument}={shown} looks deeper.",
            )


def checked_pins(
    pin: Mapping[str, int] | None, n_stages: int, modules: Sequence[str], parameters: Sequence[str]
) -> dict[str, int]:
    """Return the pins, glob -> stage.

    Args:
        pin: As the caller gave it.
        n_stages: Stages; -1 is the last.
        modules: FQNs of the modules, every one after what holds it.
        parameters: FQNs of the parameters.

    Raises:
        ArgumentError: If it is no dict from globs to stages, if a glob matches nothing, if there is no such
            stage, or if two globs pin a module to different stages.
    """
    if pin is None:
        return {}
    if not isinstance(pin, Mapping):
        raise ArgumentError(
            f"pin={pin!r} is no dict from globs to stages.", remedy='pin={"embed": 0, "head": -1}'
        )
    for glob, stage in pin.items():
        if not isinstance(glob, str):
            raise ArgumentError(
                f"pin: the key {glob!r} is {a_type(glob)}, not a glob.",
                why="A pin maps a glob over names of modules to a stage.",
                remedy='pin={"embed": 0, "head": -1}',
            )
        check_matches("pin", (glob,), modules, parameters)
        if not is_int(stage) or not -n_stages <= stage < n_stages:
            raise ArgumentError(
                f"pin: {glob!r} is pinned to stage {stage!r} of {n_stages}.",
                remedy=f"0 to {n_stages - 1}; -1 is the last.",
            )
    _check_pins_agree(pin, n_stages, [*modules, *parameters])
    return dict(pin)


def _check_pins_agree(pin: Mapping[str, int], n_stages: int, names: Sequence[str]) -> None:
    """A parameter that is read elsewhere too is pinned by its name, so tied weights do not contradict."""
    holders = {glob: matching((glob,), names) for glob in pin}
    for one, other in combinations(pin, 2):
        if pin[one] % n_stages == pin[other] % n_stages:
            continue
        both = next((name for name in names if holders[one](name) and holders[other](name)), None)
        if both is not None:
            raise ArgumentError(
                f"pin: {one!r} pins {both!r} to stage {pin[one]}, {other!r} to stage {pin[other]}.",
                why="What a glob matches is pinned with all that it holds.",
                remedy=f"pin={{{other!r}: {pin[other]}}}, or globs that do not meet in {both!r}.",
            )


def _is_globs(given: object) -> bool:
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str)
        and all(isinstance(item, str) for item in given)
    )
