"""Sweeps: many runs by one command. Imports no torch; Hydra's launchers do the work."""
