"""Reading runs back: comparison tables, delta_m. Imports no torch."""
