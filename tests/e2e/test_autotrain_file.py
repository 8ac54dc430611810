"""An AutoTrain file as its user has it, run from the command line to a verdict: real processes, a real (tiny) model."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tunewise.contracts.evaluation import Report
from tunewise.contracts.run import BaseModelRef, TrainSpec

TOKEN = "hf_" + "NeverToBeSeenAgain"
COLOURS = ("red", "green", "blue", "amber", "white", "black")
FILE = """\
task: llm-sft
base_model: ${BASE_MODEL}
project_name: colours
log: tensorboard
backend: local

data:
  path: rows.csv
  train_split: train
  valid_split: null
  chat_template: tokenizer
  column_mapping:
    text_column: messages

params:
  block_size: 256
  epochs: 1
  batch_size: 4
  lr: 3e-4
  peft: true
  quantization: null
  target_modules: all-linear
  optimizer: adamw_torch
  scheduler: linear
  gradient_accumulation: 2
  lora_r: 4
  lora_alpha: 8

hub:
  username: ${NOT_SET_ANYWHERE}
  token: ${MY_TOKEN}
  push_to_hub: false
"""


def write_rows(path: Path, count: int) -> None:
    """The form that AutoTrain's documentation gives for CSV: messages as Python prints them."""
    lines = ["messages"]
    for number in range(count):
        colour = COLOURS[number % len(COLOURS)]
        asked = {"role": "user", "content": f"Which colour has ball number {number}, painted {colour}?"}
        lines.append(f'"{[asked, {"role": "assistant", "content": colour}]}"')
    path.write_text("\n".join(lines))


def test_an_autotrain_file_runs_to_a_verdict_and_its_token_is_nowhere(tmp_path: Path, tiny_model: BaseModelRef) -> None:
    config = tmp_path / "config.yml"
    config.write_text(FILE)
    write_rows(tmp_path / "rows.csv", 40)
    environment = {**os.environ, "BASE_MODEL": str(tiny_model.path), "MY_TOKEN": TOKEN}
    command = [sys.executable, "-m", "tunewise.cli", "run", str(config), "--json"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=500, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert {key["key"]: key["fate"] for key in events[0]["keys"]}["hub.token"] == "no counterpart"
    assert events[-1]["event"] == "verdict"
    directory = tmp_path / "runs" / "colours"
    report = Report.model_validate_json((directory / "report.json").read_bytes())
    assert (report.spec.train_file.rows, len(report.questions)) == (30, 10)
    spec = TrainSpec.model_validate_json(next(directory.glob("train-*/spec.json")).read_bytes())
    assert (spec.n_epochs, spec.batch_size, spec.lora.rank, spec.max_tokens) == (1, 8, 4, 256)
    assert abs(spec.learning_rate - 3e-4) < 1e-12
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    assert TOKEN not in result.stdout + result.stderr
