"""`python -m tunewise.cli`: the same as `tunewise`."""

from tunewise.cli import app

app(prog_name="tunewise")
