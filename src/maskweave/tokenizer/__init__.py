"""The VQGAN and what trains it."""
