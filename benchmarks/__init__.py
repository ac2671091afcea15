"""Benchmarks: what the daemon costs, how fast it answers, how exact it is, with peers beside it."""
