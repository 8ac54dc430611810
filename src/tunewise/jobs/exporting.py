"""`tunewise export`: which weights a name means, what is known of them, and the child that writes them somewhere.

A name is, in this order: a directory (of a run, of an experiment, of tuned weights), a tuned model of the local state,
the suffix of an experiment in `runs/`. Knows run directories and the store; what is written is `tunewise.export`'s.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from tunewise import catalogue
from tunewise.catalogue import Notify
from tunewise.contracts.evaluation import JSON_FILE, Report
from tunewise.contracts.export import EXPORT_FILE, ExportReport, ExportSpec, Kind, Score, ShownVerdict
from tunewise.contracts.jobs import TunedModel
from tunewise.contracts.run import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_DIR,
    MODEL_DIR,
    RESULT_FILE,
    SPEC_FILE,
    BaseModelRef,
    RunFailure,
    RunResult,
    TrainSpec,
)
from tunewise.errors import ConfigError, ModelError, TunewiseError
from tunewise.jobs.platform import open_platform
from tunewise.jobs.weights import kind_in, missing_in, verified, weights_of
from tunewise.settings import Settings, environment
from tunewise.store import models

RUNS_DIR = Path("runs")
STUDY_DIR = "study"


class Tuned(NamedTuple):
    """Tuned weights: where they lie, whose run they are from, and, of a finished run, how that ended."""

    title: str
    directory: Path
    run_dir: Path | None
    result: RunResult | None

    @property
    def kind(self) -> Kind:
        """An adapter's or a whole model's."""
        return kind_in(self.directory)

    @property
    def spec(self) -> TrainSpec | None:
        """The manifest of the run, where it is there."""
        file = None if self.run_dir is None else self.run_dir / SPEC_FILE
        return TrainSpec.model_validate_json(file.read_bytes()) if file is not None and file.is_file() else None


def find(name: str, settings: Settings) -> Tuned:
    """What a name means; the state is opened where it is no directory's.

    Raises:
        ConfigError: unknown_model.
        ModelError: no_adapter, adapter_missing, adapter_changed.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_directory(path.resolve())
    model = _named(name, settings)
    if model is not None:
        run_dir = settings.state_dir / "runs" / model.job_id
        if model.is_final and (run_dir / RESULT_FILE).is_file():
            return _of_run(run_dir, model.name)
        return Tuned(model.name, _whole(settings.state_dir / model.adapter), run_dir, None)
    if (RUNS_DIR / name).is_dir():
        return _in_directory((RUNS_DIR / name).resolve())
    raise ConfigError(
        "unknown_model",
        f"{name!r} is no directory, no tuned model in {settings.state_dir}, and there is no "
        f"{(RUNS_DIR / name).resolve()}; see `tunewise jobs list`, or give the directory of a run or an adapter",
        param="MODEL",
    )


def plan(tuned: Tuned, settings: Settings, *, base: str | None, notify: Notify) -> ExportSpec:
    """What is known of the weights, as a spec that is still to be told where to go and as what.

    Raises:
        ModelError: the base model cannot be found; no_base_model.
    """
    spec = tuned.spec
    reference = _base(tuned, spec, settings, base, notify)
    name = None if reference is None else reference.name
    return ExportSpec(
        title=tuned.title,
        source=tuned.directory,
        kind=tuned.kind,
        base=reference,
        hub_id=None if name is None else catalogue.known_on_hub(name),
        licence=None if name is None else catalogue.licence_of(name),
        target="merged",
        output=default_output(tuned.title, "merged"),
        spec=spec,
        result=tuned.result,
        verdict=_verdict(tuned),
    )


def default_output(title: str, target: str) -> Path:
    """A directory of the current one, named by what is exported and as what."""
    stem = "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in title).strip("-.")
    return Path.cwd() / f"{stem}-{target}"


def export(spec: ExportSpec) -> ExportReport:
    """Let a child process write and check it.

    Raises:
        TunewiseError: with the cause that the child names; nothing is left at the output then.
    """
    with tempfile.TemporaryDirectory(prefix="tunewise-export-") as directory:
        file = Path(directory) / EXPORT_FILE
        file.write_text(spec.model_dump_json(), encoding="utf-8")
        child = subprocess.run(
            [sys.executable, "-m", "tunewise.export", str(file)],
            env=environment(OMP_WAIT_POLICY="PASSIVE"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if child.returncode:
        raise _failure(spec, child)
    return ExportReport.model_validate_json(child.stdout.splitlines()[-1])


def _failure(spec: ExportSpec, child: subprocess.CompletedProcess[str]) -> TunewiseError:
    lines = child.stdout.splitlines()
    kind = next((kind for kind in (ConfigError, ModelError) if kind.exit_code == child.returncode), None)
    if kind is not None and lines:
        failure = RunFailure.model_validate_json(lines[-1])
        return kind(failure.code, failure.message, param=failure.param)
    last_words = " | ".join(child.stderr.strip().splitlines()[-3:])
    return ModelError("export_failed", f"exporting {spec.title} ended with exit code {child.returncode}: {last_words}")


def _named(name: str, settings: Settings) -> TunedModel | None:
    platform = open_platform(settings)
    try:
        with platform.database.read() as session:
            return models.named(session, name)
    finally:
        platform.database.close()


def _in_directory(path: Path) -> Tuned:
    """A run, the newest run of an experiment, or tuned weights, which may lie in a run."""
    if (path / RESULT_FILE).is_file():
        return _of_run(path, _title(path))
    if runs := sorted(path.glob(f"train-*/{RESULT_FILE}"), key=lambda file: file.stat().st_mtime):
        return _of_run(runs[-1].parent, path.name)
    if path.name in {ADAPTER_DIR, MODEL_DIR} and (path.parent / RESULT_FILE).is_file():
        return _of_run(path.parent, _title(path.parent))
    return Tuned(path.name, _whole(path), None, None)


def _title(run_dir: Path) -> str:
    return run_dir.parent.name if run_dir.name.startswith("train-") else run_dir.name


def _of_run(run_dir: Path, title: str) -> Tuned:
    result = RunResult.model_validate_json((run_dir / RESULT_FILE).read_bytes())
    return Tuned(title, verified(weights_of(run_dir, result)), run_dir, result)


def _whole(directory: Path) -> Path:
    missing = missing_in(directory)
    if missing:
        raise ModelError("adapter_missing", f"{directory} holds no tuned weights: {', '.join(missing)} not there")
    return directory


def _base(
    tuned: Tuned, spec: TrainSpec | None, settings: Settings, asked: str | None, notify: Notify
) -> BaseModelRef | None:
    """As asked, else as the run says, else as the adapter's own configuration does; a whole model needs none."""
    if asked is not None:
        return catalogue.find(asked, settings, notify=notify)
    if spec is not None:
        is_there = spec.base_model.path.is_dir()
        return spec.base_model if is_there else catalogue.find(spec.base_model.name, settings, notify=notify)
    if tuned.kind == "model":
        return None
    named = json.loads((tuned.directory / ADAPTER_CONFIG_FILE).read_bytes()).get("base_model_name_or_path")
    if not named:
        raise ModelError(
            "no_base_model", f"{tuned.directory} does not say which base model it is for; use --base", param="--base"
        )
    return catalogue.find(named, settings, notify=notify)


def _verdict(tuned: Tuned) -> ShownVerdict | None:
    """Of the report beside the run, if it is about these very weights."""
    if tuned.run_dir is None or tuned.result is None:
        return None
    for file in (tuned.run_dir.parent / JSON_FILE, tuned.run_dir / STUDY_DIR / JSON_FILE):
        try:
            report = Report.model_validate_json(file.read_bytes())
        except (FileNotFoundError, ValidationError):  # of an older version, perhaps; a card can do without
            continue
        if report.result.weights_sha256 == tuned.result.weights_sha256:
            return _shown(report)
    return None


def _shown(report: Report) -> ShownVerdict:
    means = {
        arm.arm: next(score.mean for score in arm.scores if score.grader == report.primary_grader)
        for arm in report.arms
    }
    return ShownVerdict(
        outcome=report.verdict.outcome,
        headline=report.verdict.headline,
        grader=report.primary_grader,
        scores=tuple(Score(arm=arm, mean=mean) for arm, mean in means.items()),
    )
