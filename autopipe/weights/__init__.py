"""Gives a meta model its values, a stage at a time: from a checkpoint, or as the model makes them."""

from autopipe.weights.materialize import materialize

__all__ = ["materialize"]
