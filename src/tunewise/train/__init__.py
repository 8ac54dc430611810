"""Training: `python -m tunewise.train RUN_DIR`. Knows the run directory and torch; knows no jobs and no server."""
