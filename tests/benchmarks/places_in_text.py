"""Puts into texts the tokens that stand for images and sounds, as many as the model says that it misses.

Most models compare what they find in the text with what they were given and raise::

    Image features and image tokens do not match, tokens: 0, features: 32

Some just put as many numbers into the text as it has places; then what they offer is counted.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tests.benchmarks.small_sizes import VOCABULARY

IMAGE, SOUND = "image", "sound"
NAMES = {
    IMAGE: ("image_token_id", "image_token_index"),
    SOUND: ("audio_token_id", "audio_token_index"),
}
"""What a config calls the token that stands for a medium."""

TOKEN_TYPES = ("mm_token_type_ids", "moe_mm_token_type_ids")
TEXTS = ("input_ids", "labels")
ROUNDS = 5
"""How often a model may miss tokens of one medium or the other."""


class Scattered(TorchFunctionMode):
    """Counts the numbers that a model offers to put in the places of tokens that are not there."""

    def __init__(self) -> None:
        super().__init__()
        self.n_numbers = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run a function, counting what ``masked_scatter`` is given."""
        given = [*args, *(kwargs or {}).values()]
        if getattr(func, "__name__", "") in ("masked_scatter", "masked_scatter_") and not given[1].any():
            self.n_numbers = max(self.n_numbers, given[2].numel())
        return func(*args, **kwargs or {})


def set_tokens(config: Any) -> dict[str, int]:
    """Let the places of images and sounds in a text be tokens of the vocabulary that no text has."""
    last = vocabulary(config) - 1
    tokens = {}
    for medium, token in ((IMAGE, last), (SOUND, last - 1)):
        names = [name for name in NAMES[medium] if hasattr(config, name)]
        if medium == IMAGE and not names:
            names = [name for name in ("video_token_id",) if hasattr(config, name)]
        for name in names:
            setattr(config, name, token)
        if names:
            tokens[medium] = token
    words = getattr(config, "vocabulary_map", None) or {}
    return tokens | ({IMAGE: words["<image>"]} if "<image>" in words else {})


def vocabulary(config: Any) -> int:
    """Return the size of a model's vocabulary, at most that of the text."""
    parts = [config, *(getattr(config, name, None) for name in ("text_config", "decoder", "llm_config"))]
    sizes = [getattr(part, "vocab_size", None) for part in parts]
    return min([VOCABULARY, *(size for size in sizes if isinstance(size, int) and size > 8)])


def missed(message: str, n_samples: int) -> tuple[str, int] | None:
    """Return the medium that a message says to miss tokens of, and how many it wants a sample.

    Example:
        >>> missed("Audio features and audio tokens do not match, tokens: 0, features: 32", 8)
        ('sound', 4)
    """
    wanted = re.search(r"features:? (\d+)", message)
    medium = SOUND if re.search(r"audio|sound|speech", message, re.IGNORECASE) else IMAGE
    return (medium, int(wanted[1]) // n_samples) if wanted else None


def placed(
    model: nn.Module, given: dict[str, Any], tokens: dict[str, int], n_images: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield a batch with as many tokens of each medium a sample as the model says that it misses.

    Args:
        model: The model.
        given: A batch, its text without such tokens.
        tokens: What stands for each medium.
        n_images: How many tokens a sample to begin with stand for its image.
    """
    counts = {IMAGE: n_images} if n_images else {}
    for _ in range(ROUNDS):
        batch = longer(model, given, {tokens[name]: n for name, n in counts.items() if name in tokens})
        more = _missing(model, batch, counts, tokens)
        if more is None:
            yield batch
            return
        if not more.keys() <= tokens.keys() or not more:
            yield batch
            return
        counts |= more


def _missing(
    model: nn.Module, batch: dict[str, Any], counts: dict[str, int], tokens: dict[str, int]
) -> dict[str, int] | None:
    """Run a batch; return how many tokens it should have, nothing where it fails, None where it runs."""
    n_samples = len(batch["input_ids"])
    scattered = Scattered()
    try:
        with scattered:
            model(**batch)
    except Exception as error:
        found = missed(str(error), n_samples)
        if found is None:
            return {}
        medium, n_wanted = found
        n_wanted = n_wanted if counts.get(medium) != n_wanted else n_wanted // _width(model)
        return {medium: n_wanted} if counts.get(medium) != n_wanted else {}
    media = [IMAGE] if "pixel_values" in batch else []
    absent = [name for name in (*media, SOUND) if not (batch["input_ids"] == tokens.get(name, -1)).any()]
    n_offered = scattered.n_numbers // _width(model) // n_samples if scattered.n_numbers else 0
    return {absent[0]: n_offered} if absent and n_offered and not counts.get(absent[0]) else None


def _width(model: nn.Module) -> int:
    width: int = model.get_input_embeddings().weight.shape[-1]
    return width


def longer(model: nn.Module, given: dict[str, Any], counts: dict[int, int]) -> dict[str, Any]:
    """Return a batch with so many of some tokens behind the first token of each text."""
    accepted = inspect.signature(model.forward).parameters
    n_samples = len(given["input_ids"])
    places = torch.tensor([token for token, n in counts.items() for _ in range(n)], dtype=torch.long)
    rows = places.expand(n_samples, -1)
    texts = {name: given[name] for name in TEXTS if name in given and given[name].dim() == 2}
    batch = given | {name: torch.cat([text[:, :1], rows, text[:, 1:]], 1) for name, text in texts.items()}
    if "attention_mask" in given:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    first = next(iter(counts), -1)
    types = [name for name in TOKEN_TYPES if name in accepted]
    return batch | {name: (batch["input_ids"] == first).long() for name in types}
