"""Honest figures for filled images: metrics from libraries, baselines, sweeps and a report."""
