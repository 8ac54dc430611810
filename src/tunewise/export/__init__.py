"""Exports of tuned models: written aside, read back, held to what training recorded, and only then published."""
