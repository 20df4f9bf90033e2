"""The wiring: the whole job, and parts composed for a loop of the caller's own."""
