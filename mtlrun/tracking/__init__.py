"""What a run writes: CSV files, TensorBoard events, the console."""
