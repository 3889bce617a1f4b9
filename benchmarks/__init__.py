"""Benchmarks: run by hand (`make bench`), written to RESULTS.md. Never timed tests."""
