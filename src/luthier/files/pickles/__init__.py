"""Pickles, read inertly: an own machine and a fixed table of what may be built. No torch here."""
