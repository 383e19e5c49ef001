"""Benchmarks of speed and memory, measured as ratios to plain implementations in the same run."""
