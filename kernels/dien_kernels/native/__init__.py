"""C++ kernels for the CPU: sources in ``src/``, compiled at first use, loaded by ctypes."""
