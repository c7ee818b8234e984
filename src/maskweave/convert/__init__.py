"""Checkpoints of other projects as our components: one module for each family."""
