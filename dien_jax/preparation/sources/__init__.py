"""Sources of data, one file each: options, and a function ``prepare`` that makes a dataset folder.

``prepare`` returns lines that summarise the folder. It raises UserError when the extra ``data`` or
a file is missing, a file is too malformed, nothing is left to train on, or the folder cannot be
written.
"""
