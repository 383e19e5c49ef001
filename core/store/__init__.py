"""The DuckDB file that keeps every result: opened, read, written, checked, copied."""
