"""Makes the rarer arguments of models of transformers: what ``forward`` needs, or asks for when it raises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tests.benchmarks.made_arguments import ALONE, MAKERS, MEDIA, TOGETHER, accepted_by, noise, number_of
from tests.benchmarks.places_in_text import longer, missed, set_tokens
from tests.benchmarks.small_sizes import BATCH, IMAGE

NO_NAMES = re.compile("text ids|argument 'indices'")
"""What messages call the text besides its name."""

ROUNDS = 6
"""How often a model may ask for another argument."""


def required(model: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that have no default and are not given, those among them that can be made."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return _made(model, [name for name in names if name in MAKERS and name not in given])


def with_all_media(model: nn.Module, given: dict[str, Any]) -> dict[str, Any]:
    """Return a batch with everything to look at that the model takes."""
    accepted = accepted_by(model)
    return given | _made(model, [name for name in MEDIA if name in accepted and name not in given])


def _made(model: nn.Module, names: list[str]) -> dict[str, Any]:
    accepted = accepted_by(model)
    names = [*names, *(other for name in names for other in TOGETHER.get(name, ()) if other in accepted)]
    return {name: MAKERS[name](model.config) for name in names}


def patched(model: nn.Module, pixel_values: torch.Tensor) -> dict[str, Any]:
    """Return images cut into patches, for a model that is told their places, or the images as they are."""
    accepted = accepted_by(model)
    patch = number_of(model.config, "patch_size", 8)
    if not {"spatial_shapes", "pixel_attention_mask"} <= accepted:
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
        or _read(model, given, message)
        or _in_channels(model, given, message)
        or _turned(given, message)
        or _stretched(model, given, message)
        or _as_long_as_sound(given, message)
        or _same_target(given, message)
        or _resized(given, message)
        or _of_several(model, given, message)
        or _of_one_channel(model, given, message)
        or _shown(model, given, message)
        or _with_tokens(model, given, message)
    )


def _of_several(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the images as the only ones of their examples, or as tiles, where the model takes several."""
    images = given.get("pixel_values")
    found = re.search(r"expected (\d), got (\d)|got input of size: \[\d+, \d+\]", message)
    if images is None or found is None or (found[1] and int(found[1]) <= int(found[2])):
        return {}
    if found[1] == "6":
        tiles = number_of(model.config, "max_num_tiles", 4)
        return {"pixel_values": images[:, None, None].repeat(1, 1, tiles, 1, 1, 1)}
    return {"pixel_values": images[:, None]}


def _shown(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the mask of the images that are there, for a model that takes one and raises at None."""
    accepted = accepted_by(model)
    if "NoneType" not in message or "pixel_attention_mask" in given or "pixel_attention_mask" not in accepted:
        return {}
    images = given.get("pixel_values", noise(3, *2 * [number_of(model.config, "image_size", IMAGE)]))
    images = images[:, None] if images.dim() == 4 else images
    return {"pixel_values": images, "pixel_attention_mask": torch.ones(BATCH, 1, dtype=torch.bool)}


def _with_tokens(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the text with as many tokens as the message says that it misses of a medium."""
    tokens = set_tokens(model.config)
    found = missed(message, given, tokens) if "input_ids" in given else None
    token = tokens.get(found[0]) if found else None
    if found is None or token is None:
        return {}
    n_there = int((given["input_ids"] == token).sum()) // BATCH
    return longer(model, given, {token: found[1] - n_there}) if found[1] > n_there else {}


def _named(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return what a message names and the model takes, or what a decoder reads in its place."""
    accepted = accepted_by(model)
    words = set(re.findall(r"\w+", NO_NAMES.sub("input_ids", message.lower())))
    names = [name for name in MAKERS if name in words and name not in ALONE]
    names += [f"decoder_{name}" for name in names if f"decoder_{name}" in MAKERS]
    names = [name for name in names if name in accepted and name not in given]
    return _made(model, names[:1])


def _of_one_channel(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the sound as one channel, all of it there, for a model that expects channels."""
    sound = given.get("input_values")
    told = re.search("to have 1 channels|too many indices for tensor of dimension 2", message)
    if sound is None or sound.dim() != 2 or told is None:
        return {}
    accepted = accepted_by(model)
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
    return {"input_features": noise(features.shape[1], sizes[0])}


def _turned(given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return a spectrogram with its bins before its frames, where the model has them there."""
    features = given.get("input_features")
    channels = re.search(r"to have (\d+) channels, but got (\d+) channels", message)
    masked = re.search(r"mask \[\d+, (\d+)\] at index 1 .* indexed tensor \[\d+, (\d+), \1\]", message)
    found = channels or masked
    if features is None or found is None or features.dim() != 3:
        return {}
    is_turned = {int(found[1]), int(found[2])} == {features.shape[1], features.shape[2]}
    return {"input_features": features.mT.contiguous()} if is_turned else {}


def _stretched(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return a spectrogram of bins by frames with as many frames as the model has places for."""
    features = given.get("input_features")
    n_places = number_of(model.config, "max_source_positions", 0)
    told = re.search(r"of length (\d+), but found|multiple of `[^`]*` \((\d+)\)", message)
    is_short = n_places and re.search(rf"tensor b \({n_places}\) at non-singleton dimension 1", message)
    if features is None or features.dim() != 3 or not (told or is_short):
        return {}
    n_frames = int(told[1] or told[2]) if told else 2 * n_places
    n_bins = number_of(model.config, "num_mel_bins", features.shape[1])
    if features.shape[1:] == (n_bins, n_frames):
        return {}
    masks = [name for name in given if name in ("input_features_mask", "feature_attention_mask")]
    there = {name: torch.ones(BATCH, n_frames, dtype=torch.long) for name in masks}
    return {"input_features": noise(n_bins, n_frames)} | there


def _as_long_as_sound(given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return a text with a token for every step of the sound, where the model adds the two."""
    found = re.search(
        r"tensor a \((\d+)\) must match the size of tensor b \((\d+)\) at .* dimension 1", message
    )
    ids = given.get("input_ids")
    if found is None or ids is None or not {"input_features", "input_values"} & given.keys():
        return {}
    if ids.shape[1] != int(found[1]):
        return {}
    names = [name for name in ("input_ids", "labels", "attention_mask") if name in given]
    rows = torch.arange(int(found[2])) % ids.shape[1]
    return {name: given[name][:, rows] for name in names}


def _read(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return a text, or the mask of what is there of the sound, for a model that raises at None."""
    accepted = accepted_by(model)
    if "NoneType" not in message or "decoder_input_ids" in accepted:
        return {}
    names = ("input_ids", "padding_mask") if "input_values" in given else ("input_ids",)
    return _made(model, [name for name in names if name in accepted and name not in given][:1])


def _in_channels(model: nn.Module, given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return a text with a token for every codebook at each place, where the model reads several at once."""
    n_books = number_of(model.config, "num_codebooks", 0)
    ids = given.get("input_ids")
    if not n_books or ids is None or ids.dim() != 2 or f"tensor b ({n_books + 1})" not in message:
        return {}
    return {"input_ids": ids[..., None].repeat(1, 1, n_books + 1)}


def _same_target(given: dict[str, Any], message: str) -> dict[str, Any]:
    """Return the text as its own labels, where those of a sound are of another length."""
    labels, ids = given.get("labels"), given.get("input_ids")
    if labels is None or ids is None or "match target batch_size" not in message or ids.shape == labels.shape:
        return {}
    return {"labels": ids.clone() if ids.dim() == 2 else ids[..., 0].clone()}
