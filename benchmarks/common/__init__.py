"""Shared parts of the benchmarks: cases, contenders, timing, flags and reports."""
