"""How small the models and the batches of the coverage benchmark are."""

from __future__ import annotations

BATCH, LENGTH, IMAGE, VOCABULARY = 8, 10, 32, 99
WORDS = 80
"""Tokens from here on stand for something else than text."""

LIMIT, LARGEST_IMAGE = 80_000_000, 256
