"""Makes batches of text with images in it: as many tokens of the text stand for an image as the model says.

Models differ in how they take images: one a sample, a row of them a sample, with their sizes or with a mask
of those that are there. The newer ones (Qwen2-VL and those after it) take the patches of all images packed,
one image after the other, and the grid of each::

    image_grid_thw  [[1, 4, 4], ...]         one frame of 4 x 4 patches, of which 2 x 2 become one token
    pixel_values    16 patches an image      [8 * 16, numbers in a patch]
    input_ids       text, 4 image tokens, text
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

TOKENS_A_SIDE, TILES = 2, 3
TOKEN_TYPES = ("mm_token_type_ids", "moe_mm_token_type_ids")
MERGES = ("spatial_merge_size", "merge_size", "merge_kernel_size")
TEXTS = ("input_ids", "labels")
_EMBEDDINGS = (nn.Linear, nn.Conv2d, nn.Conv3d)


def with_images(
    model: nn.Module, given: dict[str, Any], text: dict[str, Any], token: int | None
) -> Iterator[dict[str, Any]]:
    """Yield batches with an image a sample, in the forms that the model may take.

    Args:
        model: The model.
        given: A batch with an image a sample, or with sound.
        text: What of it is text alone.
        token: What stands for an image in the text.
    """
    accepted = inspect.signature(model.forward).parameters
    for images in _packed_images(model, given):
        yield from _with_tokens(model, text | images, token, TOKENS_A_SIDE**2)
    for images in _forms(given):
        rest = {name: value for name, value in images.items() if name in accepted}
        yield from _with_tokens(model, given | rest, token, 0)


def lacks_images(model: nn.Module, batch: dict[str, Any]) -> bool:
    """Whether a model of text takes images besides, and its batch has none."""
    accepted = inspect.signature(model.forward).parameters
    return {"input_ids", "pixel_values"} <= accepted.keys() and "pixel_values" not in batch


def packed(batch: dict[str, Any]) -> dict[str, int]:
    """Return the tensors of a batch with several entries a sample, and the dimension that they are in."""
    counts = {name: len(value) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return {name: 0 for name, count in counts.items() if count > min(counts.values())}


def _packed_images(model: nn.Module, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield packed images, their patches flat or not, if the model takes such."""
    accepted = inspect.signature(model.forward).parameters
    shape = _patch_shape(model)
    if "image_grid_thw" not in accepted or shape is None:
        return
    n_samples = len(given["input_ids"])
    merge = next(_merges(model.config), 1)
    side = TOKENS_A_SIDE * merge
    images = {"image_grid_thw": torch.tensor([[1, side, side]]).repeat(n_samples, 1)}
    if "image_merge_sizes" in accepted:
        images["image_merge_sizes"] = torch.full((n_samples,), merge)
    patches = torch.randn(n_samples * side * side, *shape, generator=torch.Generator().manual_seed(3))
    yield images | {"pixel_values": patches.flatten(1)}
    yield images | {"pixel_values": patches}


def _patch_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of what the model's embedding of patches takes, None if it has none."""
    parts = [(name, part) for name, part in model.named_modules() if isinstance(part, _EMBEDDINGS)]
    named = [part for name, part in parts if "patch" in name]
    first = next(iter(named or [part for _, part in parts if not isinstance(part, nn.Linear)]), None)
    return None if first is None else tuple(first.weight.shape[1:])


def _merges(config: Any) -> Iterator[int]:
    """Yield what the config says of how many patches a side become one token."""
    for part in (getattr(config, "vision_config", None), config):
        for size in (getattr(part, name, None) for name in MERGES):
            if size:
                yield int(size[0] if isinstance(size, list | tuple) else size)


def _forms(given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield images as they are, and in rows of one or a few, with what says which are there."""
    images = given.get("pixel_values")
    yield {}
    if images is None or images.dim() != 4:
        return
    sizes = {"image_sizes": torch.tensor([images.shape[-2:]]).repeat(len(images), 1)}
    yield sizes
    for n_tiles in (1, TILES):
        row = images[:, None].repeat(1, n_tiles, 1, 1, 1)
        yield {"pixel_values": row}
        there = torch.ones(len(images), n_tiles, dtype=torch.bool)
        yield {"pixel_values": row, "pixel_attention_mask": there} | sizes


def _with_tokens(
    model: nn.Module, given: dict[str, Any], token: int | None, n_tokens: int
) -> Iterator[dict[str, Any]]:
    """Yield a batch with so many image tokens a sample, or with as many as the model says that it misses."""
    batch = _longer(model, given, token, n_tokens)
    try:
        model(**batch)
    except Exception as error:
        wanted = re.search(r"features:? (\d+)", str(error))
        if wanted is None or token is None:
            return
        n_features = int(wanted[1]) // len(given["input_ids"])
        width = model.get_input_embeddings().weight.shape[-1]
        for n_wanted in (n_features, n_features // width):
            yield _longer(model, given, token, n_wanted)
    else:
        yield batch


def _longer(model: nn.Module, given: dict[str, Any], token: int | None, n_tokens: int) -> dict[str, Any]:
    """Return a batch with image tokens behind the first token of each text."""
    accepted = inspect.signature(model.forward).parameters
    batch = dict(given)
    if token is not None and n_tokens:
        images = torch.full((len(given["input_ids"]), n_tokens), token)
        texts = {name: given[name] for name in TEXTS if name in given and given[name].dim() == 2}
        batch |= {name: torch.cat([text[:, :1], images, text[:, 1:]], 1) for name, text in texts.items()}
    if "attention_mask" in given:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    types = [name for name in TOKEN_TYPES if name in accepted]
    return batch | {name: (batch["input_ids"] == token).long() for name in types}
