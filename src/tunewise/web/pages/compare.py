"""Any runs side by side: what differs in their settings, their loss, and their scores with intervals."""

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

from markupsafe import Markup

from tunewise.contracts.evaluations import Evaluation
from tunewise.contracts.jobs import Job
from tunewise.contracts.run import StepMetrics, TrainSpec
from tunewise.evaluate import wording
from tunewise.evaluate.charts import Chart, Line, line_chart, thinned
from tunewise.jobs import files, following
from tunewise.jobs.following import Follower
from tunewise.web.parts import card, empty, link, markup, table
from tunewise.web.states import name_of, outcome_badge, status_badge
from tunewise.web.visit import Visit
from tunewise.web.words import duration, t

MOST_RUNS = 8
STYLES = ("tuned", "arm0", "arm1", "arm2", "arm3")
SETTINGS = (
    "n_epochs",
    "batch_size",
    "learning_rate",
    "schedule",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "max_tokens",
    "dtype",
    "seed",
)


class Compared(NamedTuple):
    """One run, as far as it has come. `spec` is None while its files are not validated yet."""

    job: Job
    spec: TrainSpec | None
    curve: tuple[StepMetrics, ...]
    evaluation: Evaluation | None
    files: dict[str, str]


async def draw(visit: Visit) -> None:
    """The runs that the address names, else how to choose some."""
    chosen = list(dict.fromkeys(visit.request.query_params.getlist("run")))[:MOST_RUNS]
    if len(chosen) < 2:
        empty(t("Choose at least two runs"), t("Tick them in the list of runs, and press Compare the chosen."))
        markup('<p class="tw-actions"><a class="tw-button" href="/runs">{}</a></p>', t("To the list of runs"))
        return
    runs = [await _compared(visit, job_id) for job_id in chosen]
    with card(t("Results")):
        markup("{}", _results(runs))
    with card(t("Settings")):
        markup("{}", _settings(runs))
    picture = _curves(runs)
    if picture:
        with card(t("Training loss"), classes="tw-report"):
            markup("{}", picture)


async def _compared(visit: Visit, job_id: str) -> Compared:
    follower = Follower(visit.platform, job_id)
    state = await visit.ask(follower.look)
    spec = await visit.ask(following.spec_of, job_id)
    names = await visit.ask(files.names_of, state.job.request.files)
    return Compared(state.job, spec, state.curve, state.evaluation, names)


def _results(runs: Sequence[Compared]) -> Markup:
    arms = list(dict.fromkeys(arm for run in runs for arm in (_scores(run) or {})))
    rows: list[list[str | Markup]] = [
        [t("Status"), *(status_badge(run.job.status) for run in runs)],
        [t("Verdict"), *(_verdict(run) for run in runs)],
        [t("Last training loss"), *(f"{run.curve[-1].train_loss:.4f}" if run.curve else "–" for run in runs)],
        [t("Trained for"), *(duration(run.curve[-1].seconds) if run.curve else "–" for run in runs)],
    ]
    rows += [[arm, *(_score(run, arm) for run in runs)] for arm in arms]
    return table(["", *_names(runs)], rows, caption=t("Results"))


def _settings(runs: Sequence[Compared]) -> Markup:
    """Every setting; those that differ come first and are marked."""
    rows = [(name, [_setting(run, name) for run in runs]) for name in (*_TOLD, *SETTINGS, *_SHAPE)]
    differing = [row for row in rows if len(set(row[1])) > 1]
    same = [row for row in rows if len(set(row[1])) == 1]
    told: list[list[str | Markup]] = [
        [Markup("<strong>{}</strong>").format(name), *(Markup("<mark>{}</mark>").format(value) for value in values)]
        for name, values in differing
    ]
    told += [[name, *values] for name, values in same]
    return table(["", *_names(runs)], told, caption=t("Settings; what differs comes first"))


_TOLD = ("base_model", "method", "weights", "train_file", "rows")
_SHAPE = ("lora_rank", "lora_alpha", "lora_dropout")


def _setting(run: Compared, name: str) -> str:
    spec = run.spec
    if spec is None:
        return "–"
    match name:
        case "base_model" | "method":
            return run.job.request.model if name == "base_model" else run.job.request.method.type
        case "train_file":
            file_id = run.job.request.training_file
            return f"{run.files.get(file_id, file_id)} ({spec.train_file.sha256[:8]})"
        case "rows":
            return str(spec.train_file.rows)
        case "lora_rank" | "lora_alpha" | "lora_dropout":
            return f"{getattr(spec.lora, name.removeprefix('lora_')):g}"
        case _:
            value = getattr(spec, name)
            return f"{value:g}" if isinstance(value, float) else str(value)


def _names(runs: Sequence[Compared]) -> list[Markup]:
    return [link(f"/runs/{run.job.id}", name_of(run.job)) for run in runs]


def _verdict(run: Compared) -> str | Markup:
    found = run.evaluation
    return "–" if found is None or found.outcome is None else outcome_badge(found.outcome)


def _scores(run: Compared) -> dict[str, str] | None:
    if run.evaluation is None or run.evaluation.scores is None:
        return None
    return {
        arm: f"{wording.score(interval.value)} ({wording.between(interval)})"
        for arm, interval in run.evaluation.scores.items()
    }


def _score(run: Compared, arm: str) -> str:
    return (_scores(run) or {}).get(arm, "–")


def _curves(runs: Sequence[Compared]) -> Markup:
    lines = [
        Line(name_of(run.job), style, thinned([(float(m.step), m.train_loss) for m in run.curve]))
        for run, style in zip(runs, cycle(STYLES), strict=False)
        if run.curve
    ]
    if not lines:
        return Markup()
    ends = "; ".join(f"{line.label}: {line.points[-1][1]:.3g} at last" for line in lines)
    chart = Chart("compared", t("Training loss by step"), f"{ends}.", t("step"), t("loss, nats per token"), lines)
    keys = Markup().join(
        Markup('<li><svg class="key {}" viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26"/></svg>{}</li>').format(
            line.style, line.label
        )
        for line in lines
    )
    return Markup('<figure>{}<ul class="legend">{}</ul></figure>').format(line_chart(chart), keys)
