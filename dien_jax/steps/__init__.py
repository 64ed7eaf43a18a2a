"""Jitted functions: the train step, scoring, ranking, and the state that they carry.

Functions of arrays and settings; files, run folders and progress do not enter.
"""
