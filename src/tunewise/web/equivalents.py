"""The same run without a browser: as `tunewise.yaml`, and as code for OpenAI's client. Exact: what they say is run.

Pure functions of what was asked for; tests load the one and execute the other.
"""

from pprint import pformat
from typing import Any

import yaml

from tunewise.contracts.evaluations import EvaluationRequest
from tunewise.contracts.fine_tuning import Method
from tunewise.jobs.fine_tuning import Submission

WIDTH = 100


def as_yaml(asked: Submission, evaluation: EvaluationRequest, names: dict[str, str]) -> str:
    """The experiment that `tunewise run` does. `names`: what each file id is called by its owner."""
    data = {
        "train": asked.training_file,
        "valid": asked.validation_file,
        "test": evaluation.test_file,
        "test_items": evaluation.test_items,
    }
    training = {"method": _method(asked), "seed": asked.seed} | _options(asked)
    plan = _plan(evaluation)
    plan.pop("test_file")
    plan.pop("test_items", None)
    document = {
        "model": asked.model,
        "suffix": asked.suffix,
        "data": {name: names[file_id] for name, file_id in data.items() if file_id is not None},
        **plan,
        "training": {name: value for name, value in training.items() if value is not None},
    }
    kept = {name: value for name, value in document.items() if value not in (None, {})}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=WIDTH)


def as_python(asked: Submission, evaluation: EvaluationRequest | None, base_url: str) -> str:
    """A script that asks for the same run of this server."""
    ours = {
        "training": _options(asked),
        "evaluation": None if evaluation is None else _plan(evaluation),
    }
    fields = {
        "model": asked.model,
        "training_file": asked.training_file,
        "validation_file": asked.validation_file,
        "method": _method(asked),
        "suffix": asked.suffix,
        "seed": asked.seed,
        "metadata": asked.metadata,
        "extra_body": {name: value for name, value in ours.items() if value} or None,
    }
    return "\n".join(
        [
            "from openai import OpenAI",
            "",
            f'client = OpenAI(base_url="{base_url}", api_key="YOUR KEY")  # any text, where no keys are needed',
            "",
            "job = client.fine_tuning.jobs.create(",
            *(f"    {name}={_literal(value)}," for name, value in fields.items() if value is not None),
            ")",
            "print(job.id)",
            "",
        ]
    )


def _method(asked: Submission) -> dict[str, Any] | None:
    """What differs from the defaults; its type tells which settings they are."""
    kind = asked.method.type
    chosen = asked.method.settings.model_dump(mode="json", exclude_defaults=True)
    if chosen:
        return {"type": kind, kind: chosen}
    return None if asked.method == Method() else {"type": kind}


def _options(asked: Submission) -> dict[str, Any]:
    return asked.training.model_dump(mode="json", exclude_defaults=True)


def _plan(evaluation: EvaluationRequest) -> dict[str, Any]:
    """What differs from the defaults; a grader's `type` tells which it is, so it always stands there."""
    plan = evaluation.model_dump(mode="json", exclude_defaults=True)
    graders = [
        {"type": grader.type, "name": grader.name} | grader.model_dump(mode="json", exclude_defaults=True)
        for grader in evaluation.graders
    ]
    return plan | {"graders": graders}


def _literal(value: object) -> str:
    return pformat(value, width=WIDTH, sort_dicts=False).replace("\n", "\n    ")
