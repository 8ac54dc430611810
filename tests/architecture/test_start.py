"""What is loaded before `tunewise up` answers, and before `tunewise --help` does: nothing that can wait."""

import subprocess
import sys

import pytest

# Each takes longer than all of the control plane's own modules, or belongs to the compute plane.
CAN_WAIT = {"alembic", "bm25s", "jinja2", "nicegui", "numpy", "openai", "scipy", "tokenizers", "torch", "transformers"}


@pytest.mark.parametrize(
    ("module", "can_wait"),
    [("tunewise.cli", CAN_WAIT | {"fastapi", "httpx", "pydantic", "sqlalchemy"}), ("tunewise.cli.up", CAN_WAIT)],
)
def test_a_start_loads_nothing_that_can_wait(module: str, can_wait: set[str]) -> None:
    command = [sys.executable, "-c", f"import {module}, sys; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert sorted(can_wait & set(loaded)) == []
