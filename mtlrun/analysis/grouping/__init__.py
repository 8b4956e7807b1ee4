"""Which tasks to train together, within a budget of networks."""
