"""Speed and memory, measured as ratios against plain peers in the same run."""
