"""Rows at rest: Parquet slices that are replaced as a whole, and the DuckDB file that publishes them."""
