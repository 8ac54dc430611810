"""How a job's status and a verdict are said in a word. The words are translated where they are shown."""

from markupsafe import Markup

from tunewise.contracts.evaluation import Outcome
from tunewise.contracts.jobs import Job, JobStatus
from tunewise.web.parts import Tone, badge
from tunewise.web.words import said, t

STATUSES: dict[JobStatus, tuple[str, Tone]] = {
    "validating_files": (said("Checking data"), "busy"),
    "queued": (said("Waiting"), "neutral"),
    "running": (said("Training"), "busy"),
    "paused": (said("Paused"), "warn"),
    "succeeded": (said("Succeeded"), "good"),
    "failed": (said("Failed"), "bad"),
    "cancelled": (said("Cancelled"), "neutral"),
}
OUTCOMES: dict[Outcome, tuple[str, Tone]] = {
    "worth_it": (said("Worth it"), "good"),
    "not_worth_it": (said("Not worth it"), "bad"),
    "inconclusive": (said("Inconclusive"), "warn"),
}


def status_badge(status: JobStatus) -> Markup:
    """Where a job stands."""
    word, tone = STATUSES[status]
    return badge(t(word), tone)


def outcome_badge(outcome: Outcome) -> Markup:
    """Whether a fine-tune was worth it."""
    word, tone = OUTCOMES[outcome]
    return badge(t(word), tone)


def name_of(job: Job) -> str:
    """What a person calls the run: its suffix, else the end of its id."""
    return job.request.suffix or job.id[-8:]
