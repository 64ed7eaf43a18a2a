"""Readers of log files: CSV, Parquet, JSON lines, archives, downloads, and the workspace."""
