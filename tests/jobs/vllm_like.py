"""A Python with vLLM, as far as `jobs.vllm_engine` looks at it: the server is ours, the command line vLLM's."""

import os
import sys
from argparse import ArgumentParser
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "src"


def make_python(directory: Path) -> Path:
    """A program to be named as the engine's `python`."""
    script = directory / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    script.chmod(0o755)
    return script


def main() -> None:
    """Become the server; adapters can be loaded only as vLLM lets them."""
    assert "PYTHONPATH" not in os.environ, "another Python's path"
    assert os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    parser = ArgumentParser()
    parser.add_argument("-m", dest="module", choices=["vllm.entrypoints.openai.api_server"], required=True)
    for flag in ("--model", "--served-model-name", "--host", "--port"):
        parser.add_argument(flag, required=True)
    for flag in ("--max-lora-rank", "--max-loras", "--max-cpu-loras"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--enable-lora", action="store_true", required=True)
    parser.add_argument("--dtype", required=True)
    asked = parser.parse_args()
    command = [sys.executable, "-m", "tunewise.serve", "--model", asked.model, "--name", asked.served_model_name]
    command += ["--host", asked.host, "--port", asked.port, "--dtype", asked.dtype]
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": str(SOURCES)})


if __name__ == "__main__":
    main()
