"""Tools that know nothing of click models: files, console, plots, extras, compile cache."""
