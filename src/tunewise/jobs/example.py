"""The example that comes with Tunewise, as a run like any other: its files are uploaded, and `tunewise.yaml` says how.

The files are packaged with the program (`pyproject.toml`); where it runs from its repository, they lie there.
"""

from pathlib import Path

import tunewise
from tunewise.contracts.config import EvaluationPlan
from tunewise.contracts.evaluations import EvaluationRequest
from tunewise.contracts.jobs import Caller, Job, StoredFile
from tunewise.errors import ConfigError
from tunewise.jobs import evaluations, files
from tunewise.jobs.config_file import load_config
from tunewise.jobs.fine_tuning import Submission
from tunewise.jobs.incoming import Receiver
from tunewise.jobs.platform import Platform

NAME = "recipe-assistant"
_PACKAGE = Path(tunewise.__file__).parent
PLACES = (_PACKAGE / "examples" / NAME, _PACKAGE.parents[1] / "examples" / NAME)


def start(platform: Platform, caller: Caller) -> Job:
    """Upload the example's files, and submit its run with its evaluation.

    Raises:
        RequestError: its base model is not here.
        StoreError: the disk is full.
    """
    config = load_config(directory() / "tunewise.yaml")
    train, test = _upload(platform, caller, config.data.train), _upload(platform, caller, config.data.test)
    valid = None if config.data.valid is None else _upload(platform, caller, config.data.valid)
    asked = Submission(
        model=config.model,
        training_file=train.id,
        validation_file=None if valid is None else valid.id,
        method=config.training.method,
        seed=config.training.seed,
        suffix=config.suffix,
        metadata=None,
        integrations=None,
        training=config.training.options,
    )
    plan = config.model_dump(include=set(EvaluationPlan.model_fields))
    return evaluations.submit_run(platform, caller, asked, EvaluationRequest(**plan, test_file=test.id))


def directory() -> Path:
    """Where the example's files lie.

    Raises:
        ConfigError: no_example, when they were taken out of the installation.
    """
    for place in PLACES:
        if (place / "tunewise.yaml").is_file():
            return place
    raise ConfigError("no_example", f"{PLACES[0]}: the example's files are not there; install Tunewise anew")


def _upload(platform: Platform, caller: Caller, path: Path) -> StoredFile:
    receiver = Receiver(platform, path.name)
    try:
        receiver.write(path.read_bytes())
        return files.create(platform, caller, receiver.finish(), purpose="fine-tune")
    finally:
        receiver.discard()
