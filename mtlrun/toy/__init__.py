"""``experiment=toy``: the paths of methods on a problem small enough to be drawn whole."""
