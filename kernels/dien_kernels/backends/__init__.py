"""Implementations of the recurrences, one file each."""
