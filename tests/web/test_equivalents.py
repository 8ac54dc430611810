"""What the studio shows as the same run is the same run: loaded and executed, and compared field by field."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tunewise.api.openai.requests import CreateFineTuningJob
from tunewise.contracts.config import ArmsConfig, FewShotArm, Prices, PromptArm, UseCase
from tunewise.contracts.evaluations import EvaluationRequest
from tunewise.contracts.fine_tuning import (
    Dpo,
    Hyperparameters,
    LoraRequest,
    Method,
    PreferenceHyperparameters,
    Supervised,
    TrainingOptions,
)
from tunewise.contracts.graders import AnyGrader, JsonSetF1, TextSimilarity
from tunewise.jobs.config_file import load_config
from tunewise.jobs.fine_tuning import Submission
from tunewise.web.equivalents import as_python, as_yaml

NAMES = {"file-1": "train.jsonl", "file-2": "valid.jsonl", "file-3": "test.jsonl"}


def submission(**changes: Any) -> Submission:  # noqa: ANN401  # any field
    asked = Submission(
        model="smollm2-135m-instruct",
        training_file="file-1",
        validation_file="file-2",
        method=Method(),
        seed=None,
        suffix="recipes",
        metadata=None,
        integrations=None,
    )
    return asked._replace(**changes)


def judged(grader: AnyGrader) -> EvaluationRequest:
    return EvaluationRequest(
        test_file="file-3",
        graders=(grader,),
        arms=ArmsConfig(
            prompt=(PromptArm(), PromptArm(name="better", system='Say "yes": or\nno. Größe, 日本')),
            few_shot=FewShotArm(k=2),
            retrieval=None,
        ),
        prices=Prices(machine_hour=0.1),
        use_case=UseCase(requests_per_month=5000),
    )


CASES = [
    (submission(), JsonSetF1(name="json_set_f1")),
    (submission(seed=7, validation_file=None), TextSimilarity(name="rouge_l", evaluation_metric="rouge_l")),
    (
        submission(
            suffix=None,
            method=Method(
                supervised=Supervised(hyperparameters=Hyperparameters(n_epochs=2, learning_rate_multiplier=0.5))
            ),
        ),
        JsonSetF1(name="json_set_f1"),
    ),
    (
        submission(
            method=Method(type="dpo", dpo=Dpo(hyperparameters=PreferenceHyperparameters(beta=0.3), loss="ipo")),
            training=TrainingOptions(lora=LoraRequest(rank=4, targets=("q_proj",)), trackers=("tensorboard",)),
        ),
        JsonSetF1(name="json_set_f1"),
    ),
    (submission(method=Method(type="kto")), JsonSetF1(name="json_set_f1")),
]


@pytest.mark.parametrize(("asked", "grader"), CASES)
def test_the_yaml_is_the_same_run(asked: Submission, grader: AnyGrader, tmp_path: Path) -> None:
    evaluation = judged(grader)
    path = tmp_path / "tunewise.yaml"
    path.write_text(as_yaml(asked, evaluation, NAMES))
    config = load_config(path)
    assert config.model == asked.model
    assert config.suffix == (asked.suffix or "tuned")
    assert config.data.train.name == "train.jsonl"
    assert (config.data.valid is None) == (asked.validation_file is None)
    assert config.data.test.name == "test.jsonl"
    assert config.training.method == asked.method
    assert config.training.options == asked.training
    assert config.training.seed == (42 if asked.seed is None else asked.seed)
    for name in ("graders", "arms", "evaluation", "prices", "use_case"):
        assert getattr(config, name) == getattr(evaluation, name)


@pytest.mark.parametrize(("asked", "grader"), CASES)
def test_the_code_asks_for_the_same_run(
    asked: Submission, grader: AnyGrader, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = judged(grader)
    with listening() as (base_url, sent):
        exec(compile(as_python(asked, evaluation, base_url), "shown", "exec"), {})  # what is shown is run
    request = CreateFineTuningJob.model_validate(sent[0])
    assert request.submission() == asked
    assert request.evaluation == evaluation
    assert capsys.readouterr().out == "ftjob-1\n"


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that keeps what the real client sends it."""
    sent: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(b'{"id": "ftjob-1"}')

        def log_message(self, format: str, *args: object) -> None:  # as the class has it
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", sent
        server.shutdown()
