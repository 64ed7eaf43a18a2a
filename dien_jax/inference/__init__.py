"""Inference: ranking, scoring of request tables, and exported models.

Serves run folders and exported files alike; HTTP and flags do not enter.
"""
