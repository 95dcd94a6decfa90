"""Builds architectures of transformers small, from their own config classes, with an example that has a loss.

Configs are made with small numbers (``small_configs``), arguments from the names that ``forward`` takes
(``small_batches``). Where none of this runs, or leaves out a part of the model, configs are mended
by what the models raise (``config_repairs``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.benchmarks.config_repairs import repaired
from tests.benchmarks.places_in_text import set_tokens
from tests.benchmarks.small_batches import Found, batch_that_runs
from tests.benchmarks.small_configs import SMALL_NUMBERS, configs, late_configs, scaled_configs
from tests.benchmarks.small_sizes import LIMIT

KINDS = {
    "causal LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked LM": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "encoder-decoder": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "image classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "speech": "MODEL_FOR_CTC_MAPPING_NAMES",
    "audio classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "speech seq2seq": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "vision-language": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "contrastive": "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
}


def architectures() -> Iterator[tuple[str, str, str]]:
    """Yield (kind, model type, class name) of every architecture, each class once."""
    from transformers.models.auto import modeling_auto

    seen = set()
    for kind, mapping in KINDS.items():
        for model_type, names in getattr(modeling_auto, mapping).items():
            name = names[0] if isinstance(names, tuple | list) else names
            if name not in seen:
                seen.add(name)
                yield kind, model_type, name


def build(name: str, make_config: Callable[[], Any]) -> nn.Module:
    """Build a model by its class name, small, in train mode.

    Raises:
        ValueError: If it has more than ``LIMIT`` parameters all the same.
    """
    import transformers

    model_class = getattr(transformers, name)
    config = make_config()
    if hasattr(config, "is_decoder"):
        config.is_decoder = "Causal" in name or "LMHead" in name
    set_tokens(config)  # before the model keeps what they are
    with torch.device("meta"):
        n_parameters = sum(parameter.numel() for parameter in model_class(config).parameters())
    if n_parameters > LIMIT:
        raise ValueError(f"{n_parameters / 1e6:.0f} million parameters")
    torch.manual_seed(0)
    model: nn.Module = model_class(config)
    return _opened(model).train()


def _opened(model: nn.Module) -> nn.Module:
    """Give numbers to the parameters that are all zero: gates that let no gradient through."""
    generator = torch.Generator().manual_seed(6)
    for parameter in model.parameters():
        if parameter.is_floating_point() and not parameter.any():
            parameter.data.normal_(std=0.02, generator=generator)
    return model


@dataclass(frozen=True)
class Built:
    """A model that runs, and its batch."""

    model: nn.Module
    found: Found


def build_that_runs(name: str, kind: str) -> tuple[nn.Module, dict[str, Any]]:
    """Build a model with the first small config that runs forward and backward, and its batch.

    One that reaches all its parts, towers of vision and sound among them, comes before those that do not.

    Raises:
        Exception: What the first config raised.
    """
    import transformers

    failed: list[Exception] = []
    ran: list[Built] = []
    model_class = getattr(transformers, name)
    small, scaled = configs(model_class), scaled_configs(model_class)
    mended = [*late_configs(model_class), *small, *scaled]
    for tried, is_mended in ((small, False), (scaled, False), (mended, True)):
        for make_config in tried:
            if ran and (not ran[-1].found.n_unreached or tried is small or len(ran) == PATIENCE):
                break
            try:
                ran.append(_that_runs(name, kind, make_config, is_mended))
            except Exception as error:
                failed.append(error)
    if not ran:
        raise failed[0]
    best = min(ran, key=lambda built: built.found.n_unreached)
    return best.model, best.found.batch


PATIENCE = 3
"""How many configs to try that run and leave a part of the model without a gradient."""


def _that_runs(name: str, kind: str, make_config: Callable[[], Any], is_mended: bool) -> Built:
    """Build a model, mending its config by what it raises: until it runs, then until all of it is reached.

    Args:
        name: Its class.
        kind: Its family.
        make_config: Makes its config.
        is_mended: Whether to mend the config of one that does not run.

    Raises:
        Exception: What the last model raised, if none ran.
    """
    config: Any = make_config()
    best: Built | None = None
    n_left = ROUNDS
    while config is not None and n_left:
        try:
            model = build(name, partial(copy.deepcopy, config))
            built = Built(model, batch_that_runs(model, kind))
            messages = built.found.messages
            if best is None or built.found.n_unreached < best.found.n_unreached:
                best = built
        except Exception as error:
            if best is None and not is_mended:
                raise
            failed, messages = error, (str(error), *getattr(error, "__notes__", ()))
        if best and not best.found.n_unreached:
            return best
        n_left -= best is not None
        config = _mended(config, messages)
    if best is None:
        raise failed
    return best


ROUNDS = 5
"""How often to mend the config of a model that runs, so that more of it is reached."""


def _mended(config: Any, messages: Sequence[str]) -> Any:
    """Return a config changed because of the first message that a rule applies to, None if there is none."""
    before = config.to_dict()
    for message in messages:
        try:
            new = repaired(copy.deepcopy(config), message, SMALL_NUMBERS)
            if new is not None and new.to_dict() != before:
                return new
        except Exception:  # the config refuses what it was to be
            continue
    return None
