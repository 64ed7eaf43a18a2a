"""Parts of ``benchmarks.device``. Each runs in its own process, so that it can fail alone."""
