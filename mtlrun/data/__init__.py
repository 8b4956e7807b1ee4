"""Datasets: streams of examples with labels for one or more tasks."""
