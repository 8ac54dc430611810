"""`tunewise run`: data, baselines, training, evaluation, verdict, report.

Each stage takes frozen values and gives one; what it gave before for the same inputs is taken from the stage cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from tunewise.contracts.check import CheckReport
from tunewise.contracts.evaluation import Report
from tunewise.contracts.run import TrainSpec
from tunewise.errors import ConfigError
from tunewise.jobs.conclude import Trained, conclude
from tunewise.jobs.explanation import Reason, explain
from tunewise.jobs.lab import Lab, set_up
from tunewise.jobs.plan import fitted_rows, with_plan
from tunewise.jobs.prepare import Prepared, baselines, prepare
from tunewise.jobs.progress import Watcher
from tunewise.jobs.training import resolved_spec, run_directory, train
from tunewise.settings import Settings


def run_experiment(
    config_path: Path, directory: Path | None, settings: Settings, watcher: Watcher
) -> tuple[Report, Path]:
    """Everything from the config file to the report, and the directory that the report stands in.

    Raises:
        TunewiseError: with what stopped it; what was finished is kept, and the next call goes on from there.
    """
    lab = set_up(config_path, directory, settings, watcher)
    with _alone_in(lab.directory):
        return _run(lab, settings), lab.directory


class Plan(NamedTuple):
    """What a run would be: the data as checked, with the estimate of the job, and the reason of every number."""

    check: CheckReport
    reasons: tuple[Reason, ...]


def explain_experiment(config_path: Path, directory: Path | None, settings: Settings, watcher: Watcher) -> Plan:
    """Check what a run would check first, and say what would be trained and why; nothing is asked, nothing trained.

    Raises:
        TunewiseError: what would stop the run before its first answer.
    """
    lab = set_up(config_path, directory, settings, watcher)
    with _alone_in(lab.directory):
        spec, prepared = _planned(lab, settings)
    return Plan(prepared.check, explain(lab.config.training, spec, lab.machine, fitted_rows(prepared.check)))


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold the experiment's directory, as two runs in it would mix their answers."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".lock", timeout=0):
            yield
    except Timeout as taken:
        raise ConfigError(
            "already_running",
            f"{directory}: another `tunewise run` works in this directory; wait for it, stop it, or give --output",
            param="--output",
        ) from taken


def _planned(lab: Lab, settings: Settings) -> tuple[TrainSpec, Prepared]:
    prepared = prepare(lab)
    spec = resolved_spec(lab, prepared.check)
    price = lab.config.prices.machine_hour
    planned = with_plan(prepared.check, spec, machine=lab.machine, price_per_hour=price, settings=settings)
    return spec, prepared._replace(check=planned)


def _run(lab: Lab, settings: Settings) -> Report:
    spec, prepared = _planned(lab, settings)
    asked = baselines(lab, prepared)
    lab.watcher.stage("train", f"{spec.train_file.rows} rows, n_epochs {spec.n_epochs}, {spec.dtype}")
    result = train(lab, spec, settings)
    return conclude(lab, prepared, asked, Trained(spec, result, run_directory(lab, spec)))
