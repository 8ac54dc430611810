"""The tutorials of examples/fine-tuning-api, as a reader runs them: the vendors' SDKs, a live server, a real model."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tunewise.contracts.run import BaseModelRef

EXAMPLES = Path(__file__).parents[2] / "examples" / "fine-tuning-api"
ALIAS = "gpt-4o-mini-2024-07-18=smollm2-135m-instruct"
TINY = "test/tiny"
START_SECONDS, TUTORIAL_SECONDS = 60, 900


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, smollm2: BaseModelRef, tiny_model: BaseModelRef) -> Iterator[str]:
    """A server as `tunewise up` starts it, worker and all, with a home of its own that has two base models."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("tutorials")
    (home / "models").mkdir()
    (home / "models" / smollm2.path.name).symlink_to(smollm2.path)
    (home / "models" / f"hub--{TINY.replace('/', '--')}").symlink_to(tiny_model.path)
    with (home / "up.log").open("w") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "tunewise.cli", "up", "--port", str(port), "--alias", ALIAS],
            env=os.environ | {"TUNEWISE_HOME": str(home), "TUNEWISE_STATE": str(home / "state")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", up)
        yield f"http://127.0.0.1:{port}"
    finally:
        up.terminate()
        up.wait(60)


def wait_until_ready(address: str, up: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and up.poll() is None:
        try:
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not come up: {up.poll()}")


def run_tutorial(name: str, *options: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *options],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=TUTORIAL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_openai_tutorial_ends_with_an_answer_of_the_tuned_model(address: str) -> None:
    told = run_tutorial(
        "openai_tutorial.py",
        "--rows=10",
        "--epochs=2",
        OPENAI_BASE_URL=f"{address}/v1",
        OPENAI_API_KEY="placeholder",
    )
    assert re.search(r"Status: validating_files", told)
    assert re.search(r"Fine-tuned model ID: ft:smollm2-135m-instruct:org-demo:recipe-ner:\w{8}\n", told)
    events = [line.strip() for line in told.splitlines() if line.startswith("  ")]
    assert any(re.fullmatch(r"Step 20/20: training loss=\d\.\d\d, .*full validation loss=\d\.\d\d", e) for e in events)
    assert any(re.fullmatch(r"Checkpoint created at step 10 with Snapshot ID: ft:.*:ckpt-step-10", e) for e in events)
    assert events.index("The job has successfully completed") > max(
        index for index, event in enumerate(events) if event.startswith(("Step", "Checkpoint", "New fine-tuned"))
    )
    assert "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy" in told
    assert re.search(r"Answer: .*\S", told)


def test_the_azure_tutorial_deploys_the_tuned_model_and_chats_by_deployment_name(address: str) -> None:
    """Ninety-six steps, as Azure's defaults have it for twelve rows; so many are for the tiny model."""
    told = run_tutorial(
        "azure_tutorial.py", "--model", TINY, AZURE_OPENAI_ENDPOINT=address, AZURE_OPENAI_API_KEY="placeholder"
    )
    assert re.search(r"Job ID: ftjob-[0-9a-f]{32}", told)
    assert re.search(r'"n_epochs": -1', told)
    assert re.search(r"Training hours billed: \d+\.\d+", told)
    assert re.search(r"Step \d0: training loss=\d+\.\d{4,}", told)
    assert re.search(r"ftchkpt-[0-9a-f]{32} test/tiny\.ft-[0-9a-f]{32}\n", told)
    assert re.search(r"ftchkpt-[0-9a-f]{32} test/tiny\.ft-[0-9a-f]{32}:ckpt-step-\d+", told)
    assert "Deployment: sarcastic-owl Succeeded" in told
    assert re.search(r"Answer: .*\S", told)
