"""Bytes on disk ⇄ named tensors; runs no code from a file."""
