"""Fills of many images on one machine or a cluster, by Ray Data (the extra ``ray``).

A table of images is read, each worker holds the model and fills its share of the rows, writes a
file for each and returns a row of the manifest. Pixels never leave the worker that reads them:
rows hold names of files, or bytes where a remote store was read.
"""

from maskweave.ray.cluster import connected, gpus_of
from maskweave.ray.fill import fill_dataset, fill_table, kept_by
from maskweave.ray.filler import Filler

__all__ = ["Filler", "connected", "fill_dataset", "fill_table", "gpus_of", "kept_by"]
