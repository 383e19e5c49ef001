"""Networks as data: their layers, their cost, pruning, fits of the curves, and the Keras models built from them."""
