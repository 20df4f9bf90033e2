"""Errors of devices, of their memory, and of versions that do not fit together."""
