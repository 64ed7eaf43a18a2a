"""Benchmarks, each a command: ``python -m benchmarks.NAME``, from the project's root.

``common/`` holds the parts that they share, ``peers/`` other programs' models, ``on_device/`` the
parts of ``benchmarks.device``, ``results/`` the rows behind published figures.
"""
