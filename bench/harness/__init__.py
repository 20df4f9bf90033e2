"""What the comparing benchmarks share: their environment, the processes they time, results."""
