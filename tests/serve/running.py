"""Server processes and random adapters, as the tests of this directory use them."""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from openai import OpenAI
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

START_SECONDS = 90


class Server(NamedTuple):
    process: subprocess.Popen[bytes]
    base_url: str
    client: OpenAI


@contextmanager
def peft_warnings() -> Iterator[None]:
    """Let peft ask transformers for an attribute that transformers has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        yield


def save_adapter(model: Path, directory: Path, seed: int, shape: dict[str, Any], spread: float = 0.3) -> None:
    """A random adapter, large enough to change most answers, saved as PEFT saves it."""
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with peft_warnings():
        tuned = get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM", **shape))
    numbers = torch.Generator().manual_seed(seed)
    for path, weight in tuned.named_parameters():
        if "lora_magnitude" in path:
            weight.data.mul_(1 + spread * torch.randn(weight.shape, generator=numbers))
        elif "lora_" in path:
            weight.data.normal_(0.0, spread, generator=numbers)
    tuned.save_pretrained(str(directory))


def start(model: Path, ready: Path, *flags: str) -> Server:
    command = [sys.executable, "-m", "tunewise.serve", "--model", str(model), "--name", "tiny", "--dtype", "float32"]
    process = subprocess.Popen([*command, "--ready-file", str(ready), *flags])
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        assert process.poll() is None, f"the server ended with {process.returncode}"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    address = json.loads(ready.read_text())
    assert address["pid"] == process.pid
    client = OpenAI(base_url=address["base_url"], api_key="none", max_retries=0, timeout=120)
    return Server(process, address["base_url"], client)
