"""Images made smaller: decomposition, codecs and resizing, their metrics, and the choice of k."""
