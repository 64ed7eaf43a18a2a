"""Shared parts of the benchmarks: cases, timing and plots."""
