"""Tunewise: fine-tune open language models, and learn with numbers whether it was worth it."""

__version__ = "0.1.0"
