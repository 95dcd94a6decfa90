"""Makes one argument of a small model of transformers by its name, and what is given with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.benchmarks.small_sizes import BATCH, IMAGE, LENGTH, WORDS


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(3))


def text(length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(3, WORDS, (BATCH, length), generator=generator)


def number_of(config: Any, name: str, default: int) -> int:
    """Return a whole number of a config or of the first nested one that has it."""
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "model_type"))]
    sizes = (getattr(part, name, None) for part in parts)
    return next((size for size in sizes if isinstance(size, int) and size > 0), default)


def accepted_by(model: nn.Module) -> set[str]:
    """Return the names of the arguments of a model, with those that it hands on to its encoder."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = {parameter.name for parameter in parameters}
    hands_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    encoders = [part for name, part in model.named_modules() if name in ("encoder", "model.encoder")]
    for encoder in encoders if hands_on and names.isdisjoint(HANDED_ON) else ():
        inner = set(inspect.signature(encoder.forward).parameters)
        names |= inner & {*HANDED_ON, *WITH_IMAGES} if "input_ids" in inner else set()
    return names


def _boxes(_: Any) -> torch.Tensor:
    """Return one box a token, (left, top, right, bottom) of a page of one by one."""
    corners = torch.rand(BATCH, LENGTH, 4, generator=torch.Generator().manual_seed(5)) / 2
    return corners + torch.tensor([0, 0, 0.5, 0.5])


def _numbered_patches(config: Any) -> torch.Tensor:
    """Return patches that begin with their row and column."""
    rows, columns = torch.meshgrid(torch.arange(1, 5), torch.arange(1, 5), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(1, 16, 2).expand(BATCH, -1, -1).float()
    return torch.cat([places, noise(16, number_of(config, "patch_embed_hidden_size", 48))], -1)


def _videos(config: Any) -> torch.Tensor:
    size = number_of(config, "image_size", IMAGE)
    return noise(number_of(config, "num_frames", 2), 3, size, size)


def _shared_states(config: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the keys and values that a helper takes over from its model, of each kind of layer."""
    text_config = config.get_text_config()
    states = {}
    for index, kind in enumerate(text_config.layer_types):
        layer = text_config.per_layer_config[index]
        keys = noise(layer.num_key_value_heads, LENGTH, layer.head_dim)
        states[kind] = (keys, keys.flip(-1))
    return states


def _tiles(config: Any) -> int:
    return number_of(config, "max_num_tiles", 4)


def _first_tokens(config: Any) -> torch.Tensor:
    """Return a mask of the tokens that stand for an image."""
    wanted = number_of(config, "latent_query_num", 4)
    return (torch.arange(max(LENGTH, wanted + 4)) < wanted).long().expand(BATCH, -1)


def _sound_tokens(config: Any) -> torch.Tensor:
    """Return a spectrogram of whole numbers."""
    n_bins, n_levels = number_of(config, "n_mel_bins", 8), number_of(config, "mel_vocab_size", 8)
    return torch.randint(n_levels, (BATCH, 4, n_bins), generator=torch.Generator().manual_seed(3))


def _former_logits(config: Any) -> torch.Tensor:
    """Return what a model that mends its own text said of it before."""
    text_config = config.get_text_config()
    return noise(number_of(config, "canvas_length", LENGTH), text_config.vocab_size)


def _decoder_ids(config: Any) -> torch.Tensor:
    """Return the start of what a decoder reads, of several channels where it writes several."""
    channels = getattr(getattr(config, "decoder_config", None), "num_channels", None)
    return text(4)[..., None].expand(-1, -1, channels).contiguous() if channels else text(4)


MAKERS: dict[str, Callable[[Any], Any]] = {
    "input_ids": lambda _: text(LENGTH),
    "decoder_input_ids": _decoder_ids,
    "qformer_input_ids": lambda _: text(LENGTH),
    "bbox": _boxes,
    "flattened_patches": _numbered_patches,
    "pixel_values": lambda config: noise(3, *2 * [number_of(config, "image_size", IMAGE)]),
    "pixel_values_videos": _videos,
    "state": lambda config: noise(number_of(config, "max_state_dim", 32)),
    "actions": lambda config: noise(
        number_of(config, "chunk_size", 50), number_of(config, "max_action_dim", 32)
    ),
    "image_embeds_position_mask": _first_tokens,
    "image_attention_mask": lambda _: torch.ones(BATCH, LENGTH, 1, dtype=torch.long),
    "pixel_attention_mask": lambda config: torch.ones(
        BATCH, number_of(config, "num_patches", 16), dtype=torch.long
    ),
    "mm_token_type_ids": lambda _: torch.zeros(BATCH, LENGTH, dtype=torch.long),
    "high_res_pixel_values": lambda config: noise(
        3, *2 * [number_of(getattr(config, "high_res_vision_config", config), "image_size", IMAGE)]
    ),
    "protein_input_ids": lambda _: text(LENGTH),
    "protein_attention_mask": lambda _: torch.ones(BATCH, LENGTH, dtype=torch.long),
    "aspect_ratio_ids": lambda _: torch.ones(BATCH, 1, dtype=torch.long),
    "aspect_ratio_mask": lambda config: torch.ones(BATCH, 1, _tiles(config), dtype=torch.long),
    "cross_attention_mask": lambda config: torch.ones(BATCH, LENGTH, 1, _tiles(config), dtype=torch.long),
    "shared_kv_states": _shared_states,
    "inputs_embeds": lambda config: noise(LENGTH, 2 * number_of(config, "backbone_hidden_size", 16)),
    "padding_mask": lambda _: torch.ones(BATCH, 4000, dtype=torch.bool),
    "input_features": lambda _: noise(64, 8),
    "input_values": lambda _: noise(4000),
    "audio_input_ids": _sound_tokens,
    "self_conditioning_logits": _former_logits,
    "chunk_sample_lengths": lambda config: torch.full((BATCH,), 64 * number_of(config, "hop_length", 160)),
}
"""How to make an argument from a config, by its name."""

TOGETHER = {
    "pixel_values": ("image_embeds_position_mask", "image_attention_mask"),
    "state": ("actions",),
    "flattened_patches": ("image_embeds_position_mask",),
    "protein_input_ids": ("protein_attention_mask",),
    "aspect_ratio_ids": ("aspect_ratio_mask", "cross_attention_mask"),
    "shared_kv_states": ("inputs_embeds",),
}
"""What is given with an argument where the model takes it."""

HANDED_ON = ("pixel_values",)
"""What a model may hand on to its encoder without a name of its own for it."""

WITH_IMAGES = ("mm_token_type_ids", "image_position_ids")
"""What goes with it."""

ALONE = ("inputs_embeds", "cross_attention_mask")
"""What is given with another argument and never for itself."""

MEDIA = (
    "flattened_patches",
    "protein_input_ids",
    "bbox",
    "high_res_pixel_values",
    "self_conditioning_logits",
)
"""What a model may be given to look at besides images and sound."""
