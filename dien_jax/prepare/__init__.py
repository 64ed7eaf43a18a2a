"""Raw logs in, dataset folders out; one file a source."""
