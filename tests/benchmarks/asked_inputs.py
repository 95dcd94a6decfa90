"""Makes the rarer arguments of models of transformers: what ``forward`` needs, or asks for when it raises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tests.benchmarks.small_sizes import BATCH, IMAGE, LENGTH, VOCABULARY

NO_NAMES = re.compile("text ids|argument 'indices'")
"""What messages call the text besides its name."""

ROUNDS = 6
"""How often a model may ask for another argument."""


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(3))


def _ids(length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(3, VOCABULARY - 1, (BATCH, length), generator=generator)


def _of(config: Any, name: str, default: int) -> int:
    """Return a whole number of a config or of the first nested one that has it."""
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "model_type"))]
    sizes = (getattr(part, name, None) for part in parts)
    return next((size for size in sizes if isinstance(size, int) and size > 0), default)


def _boxes(_: Any) -> torch.Tensor:
    """Return one box a token, (left, top, right, bottom) of a page of one by one."""
    corners = torch.rand(BATCH, LENGTH, 4, generator=torch.Generator().manual_seed(5)) / 2
    return corners + torch.tensor([0, 0, 0.5, 0.5])


def _numbered_patches(config: Any) -> torch.Tensor:
    """Return patches that begin with their row and column."""
    rows, columns = torch.meshgrid(torch.arange(1, 5), torch.arange(1, 5), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(1, 16, 2).expand(BATCH, -1, -1).float()
    return torch.cat([places, _noise(16, _of(config, "patch_embed_hidden_size", 48))], -1)


def _videos(config: Any) -> torch.Tensor:
    size = _of(config, "image_size", IMAGE)
    return _noise(_of(config, "num_frames", 2), 3, size, size)


def _first_tokens(config: Any) -> torch.Tensor:
    """Return a mask of the tokens that stand for an image."""
    wanted = _of(config, "latent_query_num", 4)
    return (torch.arange(max(LENGTH, wanted + 4)) < wanted).long().expand(BATCH, -1)


def _decoder_ids(config: Any) -> torch.Tensor:
    """Return the start of what a decoder reads, of several channels where it writes several."""
    channels = getattr(getattr(config, "decoder_config", None), "num_channels", None)
    return _ids(4)[..., None].expand(-1, -1, channels).contiguous() if channels else _ids(4)


MAKERS: dict[str, Callable[[Any], torch.Tensor]] = {
    "input_ids": lambda _: _ids(LENGTH),
    "decoder_input_ids": _decoder_ids,
    "qformer_input_ids": lambda _: _ids(LENGTH),
    "bbox": _boxes,
    "flattened_patches": _numbered_patches,
    "pixel_values": lambda config: _noise(3, *2 * [_of(config, "image_size", IMAGE)]),
    "pixel_values_videos": _videos,
    "state": lambda config: _noise(_of(config, "max_state_dim", 32)),
    "actions": lambda config: _noise(_of(config, "chunk_size", 50), _of(config, "max_action_dim", 32)),
    "image_embeds_position_mask": _first_tokens,
    "image_attention_mask": lambda _: torch.ones(BATCH, LENGTH, 1, dtype=torch.long),
    "pixel_attention_mask": lambda config: torch.ones(
        BATCH, _of(config, "num_patches", 16), dtype=torch.long
    ),
    "mm_token_type_ids": lambda _: torch.zeros(BATCH, LENGTH, dtype=torch.long),
    "input_features": lambda _: _noise(64, 8),
    "input_values": lambda _: _noise(4000),
}
"""How to make an argument from a config, by its name."""

TOGETHER = {"pixel_values": ("image_embeds_position_mask", "image_attention_mask"), "state": ("actions",)}
"""What is given with an argument where the model takes it."""


def required(model: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that have no default and are not given, those among them that can be made."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return _made(model, [name for name in names if name in MAKERS and name not in given])


def _made(model: nn.Module, names: list[str]) -> dict[str, Any]:
    accepted = inspect.signature(model.forward).parameters
    names = [*names, *(other for name in names for other in TOGETHER.get(name, ()) if other in accepted)]
    return {name: MAKERS[name](model.config) for name in names}


def patched(model: nn.Module, pixel_values: torch.Tensor) -> dict[str, Any]:
    """Return images cut into patches, for a model that is told their places, or the images as they are."""
    accepted = inspect.signature(model.forward).parameters
    patch = _of(model.config, "patch_size", 8)
    if not {"spatial_shapes", "pixel_attention_mask"} <= accepted.keys():
        return {"pixel_values": pixel_values}
    side = pixel_values.shape[-1] // patch
    cut = pixel_values.unfold(2, patch, patch).unfold(3, patch, patch)
    flat = cut.permute(0, 2, 3, 4, 5, 1).reshape(BATCH, side * side, -1)
    mask = torch.ones(BATCH, side * side, dtype=torch.long)
    return {
        "pixel_values": flat,
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.full((BATCH, 2), side),
    }


def asked_for(model: nn.Module, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield batches with, one after another, what the model names in what it raises."""
    for _ in range(ROUNDS):
        try:
            model(**given)
        except Exception as error:
            more = _reshaped(model, given, str(error))
            if not more:
                break
            given = given | more
            if "labels" in given and "decoder_input_ids" in more:
                given["labels"] = more["decoder_input_ids"].clone()
        else:
            break
    yield given


def _reshaped(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return what to change in a batch because of a message, if anything."""
    return (
        _named(model, given, message)
        or _resized(given, message)
        or _of_several(given, message)
        or _of_one_channel(model, given, message)
        or _shown(model, given, message)
        or with_tokens(given, message, set_image_token(model.config))
    )


def _of_several(given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the images as the only ones of their examples, where examples have several."""
    images = given.get("pixel_values")
    if images is None or not re.search(
        r"expected 5, got 4|expected 4, got 3|got input of size: \[\d+, \d+\]", message
    ):
        return {}
    return {"pixel_values": images[:, None]}


def _shown(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the mask of the images that are there, for a model that takes one and raises at None."""
    accepted = inspect.signature(model.forward).parameters
    if "NoneType" not in message or "pixel_attention_mask" in given or "pixel_attention_mask" not in accepted:
        return {}
    images = given.get("pixel_values", _noise(3, *2 * [_of(model.config, "image_size", IMAGE)]))
    images = images[:, None] if images.dim() == 4 else images
    return {"pixel_values": images, "pixel_attention_mask": torch.ones(BATCH, 1, dtype=torch.bool)}


def with_tokens(given: dict[str, Any], message: str, token: int | None) -> dict[str, Any]:
    """Return the text with as many image tokens in front as the message says that it misses."""
    wanted = re.search(r"features:? (\d+)", message)
    if not wanted or token is None or "input_ids" not in given:
        return {}
    images = torch.full((BATCH, int(wanted[1]) // BATCH), token)
    texts = {
        name: value for name, value in given.items() if name in ("input_ids", "labels") and value.dim() == 2
    }
    longer: dict[str, Any] = {name: torch.cat([images, text], 1) for name, text in texts.items()}
    if "attention_mask" in given:
        longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    return longer


def set_image_token(config: Any) -> int | None:
    """Let the place of an image in a text be a token of the vocabulary that no text has."""
    names = [name for name in ("image_token_id", "image_token_index") if hasattr(config, name)]
    names = names or [name for name in ("video_token_id",) if hasattr(config, name)]
    token = vocabulary(config) - 1
    for name in names:
        setattr(config, name, token)
    return token if names else None


def vocabulary(config: Any) -> int:
    """Return the size of a model's vocabulary, at most that of the text."""
    parts = [config, *(getattr(config, name, None) for name in ("text_config", "decoder", "llm_config"))]
    sizes = [getattr(part, "vocab_size", None) for part in parts]
    return min([VOCABULARY, *(size for size in sizes if isinstance(size, int) and size > 8)])


def _named(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return what a message names and the model takes, or what a decoder reads in its place."""
    accepted = inspect.signature(model.forward).parameters
    words = set(re.findall(r"\w+", NO_NAMES.sub("input_ids", message.lower())))
    names = [name for name in MAKERS if name in words]
    names += [f"decoder_{name}" for name in names if f"decoder_{name}" in MAKERS]
    names = [name for name in names if name in accepted and name not in given]
    return _made(model, names[:1])


def _of_one_channel(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the sound as one channel, all of it there, for a model that expects channels."""
    sound = given.get("input_values")
    if sound is None or sound.dim() != 2 or "to have 1 channels" not in message:
        return {}
    accepted = inspect.signature(model.forward).parameters
    mask = {"padding_mask": torch.ones(sound.shape, dtype=torch.bool)} if "padding_mask" in accepted else {}
    return {"input_values": sound[:, None]} | mask


def _resized(given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return a spectrogram with as many bins as the message says that it lacks."""
    features = given.get("input_features")
    pair = re.search(r"tensor a \((\d+)\) must match the size of tensor b \((\d+)\)", message)
    shapes = re.search(r"\(\d+x(\d+) and (\d+)x\d+\)", message)
    found = pair or shapes
    if features is None or found is None:
        return {}
    sizes = [int(found[1]), int(found[2])]
    if features.shape[-1] not in sizes or sizes[0] == sizes[1]:
        return {}
    sizes.remove(features.shape[-1])
    return {"input_features": _noise(features.shape[1], sizes[0])}
