"""Transformers of other projects, for weights that were trained there."""
