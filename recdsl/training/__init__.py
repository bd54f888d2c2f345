"""Data, training loops, checkpoints and trained models. Only `run`, `loop` and what they import use torch."""
