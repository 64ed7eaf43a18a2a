"""From events to a dataset folder: events -> splits -> negatives -> features -> write."""
