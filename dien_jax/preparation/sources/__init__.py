"""Sources of data, one file each: options, and a function that makes a dataset folder."""
