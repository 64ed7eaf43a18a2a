"""Preparation of dataset folders: sources of logs, readers of their files, and the pipeline.

Plain NumPy and DuckDB: the model, its parameters and its optimizer do not enter.
"""
