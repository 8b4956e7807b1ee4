"""Pictures of runs for print. Matplotlib is imported here only where one is drawn."""
