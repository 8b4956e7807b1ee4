"""Loss balancing: one file a method."""
