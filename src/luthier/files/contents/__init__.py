"""What is in an opened file: weights, modules, who wrote it, what would have run. No torch here."""
