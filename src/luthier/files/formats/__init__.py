"""One file a format: bytes → ``Archive``. Which one reads a file is told by its content."""
