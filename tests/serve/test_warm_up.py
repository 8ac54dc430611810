"""The first requests find every loop compiled, for every layout of arrays that they bring."""

import subprocess
import sys
from pathlib import Path

import pytest

from tunewise.contracts.run import BaseModelRef

SCRIPT = """
import sys
from pathlib import Path
import torch
from tunewise.modeling import loops
from tunewise.serve import local
from tunewise.serve.generation import Generation, Sampling
from tunewise.serve.network import Network

LOOPS = ("rotate", "add_and_norm", "gate_joined", "store_and_attend", "add_adapters")

def warm(directory, dtype):
    network = Network(directory, dtype)
    network.warm_up()
    return network

local.Network = warm
model, adapter, dtype = Path(sys.argv[1]), Path(sys.argv[2]), getattr(torch, sys.argv[3])
with local.LocalEngine(model, dtype) as running:
    running.engine.load_adapter("tuned", adapter)
    before = {name: len(getattr(loops, name).signatures) for name in LOOPS}
    for count in (1, 4):
        names = [None, "tuned"] if count > 1 else [None]
        running.generate([
            Generation((5, 6, 7 + place), name, 1, 4, Sampling(0.0, 1.0, 0), ignore_eos=True)
            for place in range(count) for name in names
        ])
    after = {name: len(getattr(loops, name).signatures) for name in LOOPS}
assert all(before.values()), before
assert after == before, (before, after)
"""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_is_compiled_after_warming_up(dtype: str, tiny_model: BaseModelRef, adapters: dict[str, Path]) -> None:
    """In a process of its own: in this one, other tests have had them compiled."""
    command = [sys.executable, "-c", SCRIPT, str(tiny_model.path), str(adapters["all"]), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
