"""Parts of ``benchmarks.device``; each runs as a program of its own, so that it can fail alone."""
