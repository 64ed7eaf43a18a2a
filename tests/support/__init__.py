"""Helpers of the tests: small logs, datasets, runs, servers and models."""
