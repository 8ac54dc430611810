"""Base models: making their directories, loading them, adapters, fast kernels. Knows torch; knows no jobs."""
