"""Benchmarks, each a command: ``python -m benchmarks.NAME``, from the project's root.

``common/`` holds the parts that they share, ``peers/`` other programs' models, ``aot/`` compilers
for devices that are not attached, ``results/`` the rows behind published figures.
"""
