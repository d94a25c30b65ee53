"""Cloister: fine-tunes and serves language models on data that may never leave the building."""

__version__ = "0.1.0"
