"""What a task is: target, loss, metrics, output size."""
