"""Runs a split model: whole, as the model would run, or by a schedule over microbatches."""
