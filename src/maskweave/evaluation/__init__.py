"""Honest figures for filled images: metrics from libraries, baselines and the protocol."""
