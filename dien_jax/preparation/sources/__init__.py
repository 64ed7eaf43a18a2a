"""Sources of data, one file each: their options, and how each is read into events."""
