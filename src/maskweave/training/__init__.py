"""The training loop, its two tasks and their recipes."""
