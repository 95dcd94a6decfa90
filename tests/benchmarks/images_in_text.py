"""Makes batches of text with images in it: as many tokens of the text stand for an image as the model says.

Models differ in how they take images: one a sample, a row of them a sample, with their sizes or with a mask
of those that are there. The newer ones (Qwen2-VL and those after it) take the patches of all images packed,
one image after the other, and the grid of each::

    image_grid_thw  [[1, 4, 4], ...]         one frame of 4 x 4 patches, of which 2 x 2 become one token
    pixel_values    16 patches an image      [8 * 16, numbers in a patch]
    input_ids       text, 4 image tokens, text
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten_with_path, tree_unflatten

from tests.benchmarks.made_arguments import accepted_by
from tests.benchmarks.places_in_text import placed

TOKENS_A_SIDE, TILES = 2, 3
GRIDS: dict[str, tuple[int, ...]] = {"image_grid_thw": (1,), "image_grid_hw": ()}
"""What a grid is called, and what is said of it before its height and width."""
MERGES = ("spatial_merge_size", "merge_size", "merge_kernel_size")
_EMBEDDINGS = (nn.Linear, nn.Conv2d, nn.Conv3d)


def with_images(
    model: nn.Module, given: dict[str, Any], text: dict[str, Any], tokens: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """Yield batches with an image a sample, in the forms that the model may take.

    Args:
        model: The model.
        given: A batch with an image a sample, or with sound.
        text: What of it is text alone.
        tokens: What stands for each medium in the text.
    """
    accepted = accepted_by(model)
    for images in _packed_images(model, given):
        yield from placed(model, text | images, tokens, TOKENS_A_SIDE**2)
    for images in _forms(given):
        rest = {name: value for name, value in images.items() if name in accepted}
        yield from placed(model, given | rest, tokens)
    for images in _rarer_forms(model, given):
        yield from placed(model, text | images, tokens)


def lacks_images(model: nn.Module, batch: dict[str, Any]) -> bool:
    """Whether a model of text takes images besides, and its batch has none."""
    accepted = accepted_by(model)
    return {"input_ids", "pixel_values"} <= accepted and "pixel_values" not in batch


def packed(batch: dict[str, Any]) -> dict[str, int]:
    """Return the tensors of a batch with several entries a sample, and the dimension that they are in."""
    counts = {name: len(value) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    if "target_sizes" in batch and counts.get("pixel_values") == 1:
        counts.pop("pixel_values")
        return packed({name: batch[name] for name in counts}) | {
            "pixel_values": batch["pixel_values"].dim() - 1
        }
    return {name: 0 for name, count in counts.items() if count > min(counts.values())}


def microbatches(batch: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Cut a batch into ``n``, each of its tensors along the dimension that samples are in."""
    dims = packed(batch)
    leaves, spec = tree_flatten_with_path(batch)
    parts = [
        leaf.tensor_split(n, dims.get(path[0].key, 0)) if isinstance(leaf, torch.Tensor) else n * [leaf]
        for path, leaf in leaves
    ]
    return [tree_unflatten(rows, spec) for rows in zip(*parts, strict=True)]


def _packed_images(model: nn.Module, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield packed images, their patches flat or not, if the model takes such."""
    accepted = accepted_by(model)
    shape = _patch_shape(model)
    grid = next((name for name in GRIDS if name in accepted), None)
    if grid is None or shape is None:
        return
    n_samples = len(given["input_ids"])
    merge = next(_merges(model.config), 1)
    side = TOKENS_A_SIDE * merge
    images = {grid: torch.tensor([[*GRIDS[grid], side, side]]).repeat(n_samples, 1)}
    if "image_merge_sizes" in accepted:
        images["image_merge_sizes"] = torch.full((n_samples,), merge)
    patches = torch.randn(n_samples * side * side, *shape, generator=torch.Generator().manual_seed(3))
    yield images | {"pixel_values": patches.flatten(1)}
    yield images | {"pixel_values": patches}


def _rarer_forms(model: nn.Module, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield images in forms that few models take: in one long row, in patches with their channels last.

    ::

        target_sizes    [[4, 4], ...]            a grid of each image, in patches
        pixel_values    [1, channels, patch, 8 * 16 * patch]

        image_grid_thw  [[1, 2, 2], ...]         a grid of each image, in tokens
        pixel_values    [8 * 4, side of a token, side of a token, channels]

        pixel_values    [8 * 4, frames of a patch, patch, patch, channels]

        image_position_ids  [8, patches, 2]      the column and row of each patch
        pixel_values        [8, patches, numbers in a patch]
    """
    accepted = accepted_by(model)
    vision = getattr(model.config, "vision_config", None)
    patch = getattr(vision, "patch_size", None)
    if "pixel_values" not in accepted or not isinstance(patch, int):
        return
    n_samples, channels = len(given["input_ids"]), getattr(vision, "num_channels", None) or 3
    generator = torch.Generator().manual_seed(3)
    n_tokens = n_samples * TOKENS_A_SIDE**2
    if "target_sizes" in accepted:
        side = TOKENS_A_SIDE * next(_merges(model.config), 1) ** 2
        row = torch.randn(1, channels, patch, n_samples * side**2 * patch, generator=generator)
        yield {"pixel_values": row, "target_sizes": torch.full((n_samples, 2), side)}
    if "image_grid_thw" in accepted:
        side = patch * next(_merges(model.config), 1)
        grid = torch.tensor([[1, TOKENS_A_SIDE, TOKENS_A_SIDE]]).repeat(n_samples, 1)
        tokens = torch.randn(n_tokens, side, side, channels, generator=generator)
        yield {"pixel_values": tokens, "image_grid_thw": grid}
    elif "image_position_ids" in accepted:
        side = TOKENS_A_SIDE * (getattr(vision, "pooling_kernel_size", None) or 1)
        places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).flip(-1)
        patches = torch.randn(n_samples, side**2, channels * patch**2, generator=generator)
        yield {"pixel_values": patches, "image_position_ids": places.repeat(n_samples, 1, 1)}
    elif hasattr(vision, "temporal_patch_size"):
        shape = (n_tokens, vision.temporal_patch_size, patch, patch, channels)
        yield {"pixel_values": torch.randn(*shape, generator=generator)}


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
