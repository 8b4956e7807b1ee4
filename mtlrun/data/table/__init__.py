"""Tables of the user's own: a CSV or parquet file, some of whose columns are the targets."""

from mtlrun.data.table.dataset import Table

__all__ = ["Table"]
