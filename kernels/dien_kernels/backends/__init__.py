"""Implementations of the recurrences, one file each that exports ``BACKEND``.

Shared parts, choices and checks are in :mod:`dien_kernels`. A backend imports
:mod:`dien_kernels.contract` and no other backend.
"""
