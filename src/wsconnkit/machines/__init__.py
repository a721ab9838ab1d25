"""State machines that import nothing of the package; each file works alone."""
