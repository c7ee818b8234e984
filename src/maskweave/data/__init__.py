"""Image folders and what is done to images before training."""
