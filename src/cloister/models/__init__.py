"""Base models, adapters and merged weights: imported, loaded, measured and written."""
