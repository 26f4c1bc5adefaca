"""Statistics of every attention head, over rows and over a whole corpus."""
