"""Puts into texts the tokens that stand for images and sounds, as many as the model says that it misses.

Most models compare what they find in the text with what they were given and raise::

    Image features and image tokens do not match, tokens: 0, features: 32

Some just put as many numbers into the text as it has places; then what they offer is counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from tests.benchmarks.config_repairs import parts_of
from tests.benchmarks.made_arguments import accepted_by
from tests.benchmarks.small_sizes import VOCABULARY

IMAGE, SOUND = "image", "sound"
NAMES = {
    IMAGE: ("image_token_id", "image_token_index"),
    SOUND: ("audio_token_id", "audio_token_index"),
}
"""What a config calls the token that stands for a medium."""

TOKEN_TYPES = ("mm_token_type_ids", "moe_mm_token_type_ids")
TEXTS = ("input_ids", "labels")
GIVEN = {IMAGE: ("pixel_values",), SOUND: ("input_features", "input_values", "audio_input_ids")}
"""What a medium comes in."""

ROUNDS = 7
"""How often a model may miss tokens of one medium or the other."""

FIRST = 2
"""How many tokens of a medium to begin with where the model does not say how many it wants."""


class Offered(TorchFunctionMode):
    """Counts the numbers that a model offers to put into a text.

    Args:
        width: Of the text.
        embedding: What makes the text's own numbers.
    """

    def __init__(self, width: int, embedding: nn.Module) -> None:
        super().__init__()
        self.n_numbers = self.n_last = 0
        self._width, self._embedding = width, embedding
        self._hook = register_module_forward_hook(self._note)

    def _note(self, module: nn.Module, _: Any, output: Any) -> None:
        """Count what the last module gave that was as wide as the text."""
        is_wide = isinstance(output, torch.Tensor) and output.shape[-1:] == (self._width,)
        if is_wide and module is not self._embedding:
            self.n_last = output.numel()

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        self._hook.remove()
        super().__exit__(*error)

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
    parts = list(parts_of(config))
    tokens = {}
    for medium, token in ((IMAGE, last), (SOUND, last - 1)):
        names = [name for name in NAMES[medium] if any(hasattr(part, name) for part in parts)]
        if medium == IMAGE and not names:
            names = [name for name in ("video_token_id",) if hasattr(config, name)]
        for part, name in [(part, name) for part in parts for name in names if hasattr(part, name)]:
            setattr(part, name, token)
        if names:
            tokens[medium] = token
    words = getattr(config, "vocabulary_map", None) or {}
    return tokens | ({IMAGE: words["<image>"]} if "<image>" in words else {})


def vocabulary(config: Any) -> int:
    """Return the size of a model's vocabulary, at most that of the text."""
    parts = [config, *(getattr(config, name, None) for name in ("text_config", "decoder", "llm_config"))]
    sizes = [getattr(part, "vocab_size", None) for part in parts]
    return min([VOCABULARY, *(size for size in sizes if isinstance(size, int) and size > 8)])


def missed(message: str, batch: dict[str, Any], tokens: dict[str, int]) -> tuple[str, int] | None:
    """Return the medium that a message says to miss tokens of, and how many it wants a sample.

    Args:
        message: What the model raised.
        batch: What it was given.
        tokens: What stands for each medium in the text.

    Example:
        >>> batch = {"input_ids": torch.zeros(8, 3)}
        >>> missed("Audio features and audio tokens do not match, tokens: 0, features: 32", batch, {})
        ('sound', 4)
    """
    wanted = re.search(r"features:? (\d+)|Got (\d+) feature vectors", message)
    if wanted is None:
        return None
    return _medium(message, batch, tokens), int(wanted[1] or wanted[2]) // len(batch["input_ids"])


def _medium(message: str, batch: dict[str, Any], tokens: dict[str, int]) -> str:
    """Return the medium that a message is about: by its name, its token, or how often that is there."""
    names = re.search(r"(audio|sound|speech)|(image|vision)", message, re.IGNORECASE)
    token = re.search(r"\(id (\d+)\)", message)
    there = re.search(r"tokens: (\d+)", message)
    if names:
        return SOUND if names[1] else IMAGE
    for medium in (IMAGE, SOUND):
        is_named = token and tokens.get(medium) == int(token[1])
        count = int((batch["input_ids"] == tokens.get(medium, -1)).sum())
        if is_named or (not token and there and int(there[1]) == count and _is_given(medium, batch)):
            return medium
    return IMAGE


def _is_given(medium: str, batch: dict[str, Any]) -> bool:
    return any(name in batch for name in GIVEN[medium])


def placed(
    model: nn.Module, given: dict[str, Any], tokens: dict[str, int], n_images: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield a batch with as many tokens of each medium a sample as the model says that it misses.

    Where the model raises without saying how many, that batch is yielded, and a few tokens are tried as well.

    Args:
        model: The model.
        given: A batch; tokens for media in its text are taken out first.
        tokens: What stands for each medium.
        n_images: How many tokens a sample to begin with stand for its image.
    """
    given = _bare(given, tokens)
    counts = {IMAGE: n_images} if n_images else {}
    tried = set(counts.items())
    for _ in range(ROUNDS):
        batch = longer(model, given, {tokens[name]: n for name, n in counts.items() if name in tokens})
        is_told, wanted = _wanted(model, batch, tokens)
        wanted = [(medium, n) for medium, n in wanted if n and medium in tokens and (medium, n) not in tried]
        if not is_told or not wanted:
            yield batch
        if not wanted:
            return
        tried.add(wanted[0])
        counts |= dict(wanted[:1])


def _wanted(
    model: nn.Module, batch: dict[str, Any], tokens: dict[str, int]
) -> tuple[bool, list[tuple[str, int]]]:
    """Run a batch; return whether the model says what it misses, and of which medium how much to try."""
    n_samples = len(batch["input_ids"])
    absent = [
        medium
        for medium in (IMAGE, SOUND)
        if (batch["input_ids"] != tokens.get(medium, -1)).all() and _is_given(medium, batch)
    ]
    embedding = _text_embedding(model)
    width = embedding.weight.shape[-1]
    offered = Offered(width, embedding)
    try:
        with offered:
            model(**batch)
    except Exception as error:
        found = missed(str(error), batch, tokens)
        if found is None:
            return False, [(medium, FIRST) for medium in absent]
        medium, n_wanted = found
        n_last = offered.n_last // width // n_samples
        return True, [(medium, n) for n in (n_wanted, n_wanted // width, n_last)]
    n_offered = offered.n_numbers // width // n_samples
    return True, [(absent[0], n_offered)] if absent else []


def _text_embedding(model: nn.Module) -> Any:
    """Return what makes numbers of a text: what the model says, or the largest embedding in it."""
    try:
        return model.get_input_embeddings()
    except NotImplementedError:
        embeddings = [part for part in model.modules() if isinstance(part, nn.Embedding)]
        return max(embeddings, key=lambda embedding: embedding.num_embeddings)


def _bare(given: dict[str, Any], tokens: dict[str, int]) -> dict[str, Any]:
    """Return a batch without the tokens that stand for media in its texts."""
    first = given["input_ids"][0]
    if first.dim() != 1 or not tokens:
        return given
    is_text = ~torch.isin(first, torch.tensor(list(tokens.values())))
    names = (*TEXTS, "attention_mask", *TOKEN_TYPES)
    texts = {name: given[name] for name in names if name in given and given[name].shape[1:] == first.shape}
    return given | {name: text[:, is_text] for name, text in texts.items()}


def longer(model: nn.Module, given: dict[str, Any], counts: dict[int, int]) -> dict[str, Any]:
    """Return a batch with so many of some tokens behind the first token of each text."""
    accepted = accepted_by(model)
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
