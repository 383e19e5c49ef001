"""The article: its printed figures, its tables and claims beside the measurements, and its whole study."""
