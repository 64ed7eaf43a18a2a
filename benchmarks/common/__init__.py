"""Code that benchmarks share: cases, comparison, timing, flags and reports."""
