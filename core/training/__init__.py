"""Training: specs, one training epoch by epoch, Algorithm 2 step by step, and what predictions are worth."""
