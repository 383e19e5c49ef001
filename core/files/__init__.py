"""Files of every kind but images: locks, private folders, plain reading, exports."""
