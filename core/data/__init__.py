"""Images on disk as data sets: what is found, read, labelled, divided into sets and handed to networks."""
