"""Inspection of trained models: gates and attention, feature importance, maps and reports."""
