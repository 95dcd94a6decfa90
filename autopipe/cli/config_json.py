"""A transformers ``config.json`` as a model: built on the meta device, so that any size fits a laptop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autopipe.cli.command import users_code
from autopipe.errors import ArgumentError

if TYPE_CHECKING:
    from torch import nn

BATCH, LENGTH = 1, 2048
"""The example without --batch and --length; the model's own longest, where that is less."""


def model_from(path: Path, settings: Mapping[str, Any]) -> nn.Module:
    """Build the model that a configuration describes, without memory for its weights, in train mode.

    Args:
        path: The file.
        settings: Fields that replace those of the file.

    Raises:
        ArgumentError: If transformers is missing, if the file is no configuration, or if its architecture is
            unknown.
    """
    transformers = _transformers(path)
    fields = {**_read(path), **settings}
    model_type = fields.pop("model_type", None)
    if model_type not in transformers.CONFIG_MAPPING:
        raise _unknown(path, f"model_type {model_type!r}", fields)
    with users_code(f"{path}: the configuration"):
        config = transformers.AutoConfig.for_model(model_type, **fields)
    names = fields.get("architectures") or ()
    name = names if isinstance(names, str) else next(iter(names), None)
    kind = getattr(transformers, str(name), None)
    if name is not None and kind is None:
        raise _unknown(path, f"architecture {name!r}", fields)
    if kind is None and type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ArgumentError(
            f"{path} names no architecture, and {model_type!r} has no causal language model.",
            remedy='add "architectures": ["..."] to it, with a model class of transformers.',
        )
    return _built(path, config, kind or transformers.AutoModelForCausalLM)


def example_for(model: nn.Module, path: Path, batch: int | None, length: int | None) -> dict[str, Any]:
    """Make one microbatch for a model of transformers from its configuration.

    Args:
        model: The model.
        path: Its file, for messages.
        batch: Samples; None: 1.
        length: Tokens of a sample; None: 2048, or the model's longest if that is less.

    Returns:
        Keyword arguments on the meta device: ``input_ids`` of batch x length, and where there is an encoder
        and a decoder ``decoder_input_ids``; for an image model ``pixel_values``.

    Raises:
        ArgumentError: If the model takes something else.
    """
    import torch

    config: Any = model.config
    samples = BATCH if batch is None else batch
    main: str = getattr(model, "main_input_name", "input_ids")
    if main == "input_ids":
        longest = getattr(config, "max_position_embeddings", None) or LENGTH
        tokens = torch.empty(samples, length or min(LENGTH, longest), dtype=torch.long, device="meta")
        names = ["input_ids", "decoder_input_ids"] if config.is_encoder_decoder else ["input_ids"]
        return dict.fromkeys(names, tokens)
    size = getattr(config, "image_size", None)
    if main == "pixel_values" and size is not None and length is None:
        height, width = (size, size) if isinstance(size, int) else size
        shape = samples, getattr(config, "num_channels", 3), height, width
        return {main: torch.empty(shape, device="meta", dtype=getattr(model, "dtype", None))}
    raise ArgumentError(
        f"{path}: autopipe makes no example for a model that takes {main!r}"
        + ("." if main != "pixel_values" or length is None else " of some length."),
        remedy="--example module:callable, which returns the arguments.",
    )


def _transformers(path: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ArgumentError(
            f"{path} needs transformers, which is not installed.",
            why=str(error),
            remedy="pip install 'autopipe-torch[hf]'",
        ) from None
    return transformers


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ArgumentError(f"{path} is not JSON.", why=str(error)) from None
    if not isinstance(fields, dict):
        raise ArgumentError(f"{path} is no configuration: it holds a {type(fields).__name__}.")
    return fields


def _unknown(path: Path, what: str, fields: Mapping[str, Any]) -> ArgumentError:
    import transformers

    own_code = (
        "It names code of its own (auto_map), which autopipe does not run." if "auto_map" in fields else ""
    )
    return ArgumentError(
        f"{path}: transformers {transformers.__version__} does not know {what}.",
        why=own_code,
        remedy="a newer transformers, or build the model in a function of yours: module:callable.",
    )


def _built(path: Path, config: Any, kind: Any) -> nn.Module:
    import torch

    with users_code(f"{path}: {kind.__name__}"), torch.device("meta"):
        model: nn.Module = (kind.from_config if hasattr(kind, "from_config") else kind._from_config)(config)
    return model.train()
