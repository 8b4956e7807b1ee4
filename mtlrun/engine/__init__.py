"""The training loop, one step, per-task gradients, checkpoints."""
