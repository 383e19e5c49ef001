"""Prune and train: start trainings and Algorithm 2, watch them epoch by epoch, read and compare what they reached."""
