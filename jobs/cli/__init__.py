"""The commands of `python -m jobs`, one module for each group."""
