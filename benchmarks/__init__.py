"""Benchmarks. Each file is a command: run ``python -m benchmarks.NAME`` from the project's root.

``common/`` holds shared code, ``peers/`` models of other packages, ``on_device/`` the parts of
``benchmarks.device``, and ``results/`` the rows behind published figures.
"""
