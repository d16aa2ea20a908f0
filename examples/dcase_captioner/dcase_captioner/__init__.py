"""A captioner in plain PyTorch, and what lets rlcap tune it."""
