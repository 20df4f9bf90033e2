"""Whether an error is the one of an entry, and what more can be said of it. Pure."""
