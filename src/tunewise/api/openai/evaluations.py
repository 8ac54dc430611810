"""/v1/fine_tuning/jobs/{job_id}/evaluation: whether the fine-tune was worth it. Ours; OpenAI has no such resource."""

from typing import Literal

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from pydantic import Field

from tunewise.api.dependencies import CallerDep, PlatformDep
from tunewise.api.openai.fine_tuning import JobId
from tunewise.api.openai.wire import Wire
from tunewise.api.route import Route
from tunewise.contracts.evaluation import Interval, Outcome, Report
from tunewise.contracts.evaluations import Evaluation, EvaluationRequest, EvaluationStatus
from tunewise.contracts.run import RunFailure
from tunewise.jobs import evaluations

router = APIRouter(prefix="/fine_tuning/jobs", tags=["evaluation"], route_class=Route)

# The report has neither script nor outside reference; texts of models and data files stand in it, escaped.
REPORT_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"}


class JobEvaluation(Wire):
    """The evaluation of a fine-tuning job."""

    object: Literal["fine_tuning.job.evaluation"] = "fine_tuning.job.evaluation"
    job_id: str = Field(examples=["ftjob-6f1d8d1f8b0a4b6f9c4e7a3b2d1c0e9f"])
    status: EvaluationStatus = Field(description="`baselines_done`: alternatives scored, tuned model not yet.")
    request: EvaluationRequest
    scores: dict[str, Interval] | None = Field(description="Of each arm asked so far, on the primary grader.")
    outcome: Outcome | None = Field(description="The verdict.")
    headline: str | None = Field(description="The verdict in one sentence.")
    error: RunFailure | None = Field(description="Why there is no verdict.")
    created_at: int = Field(description="Unix time in seconds.")
    finished_at: int | None


@router.post("/{job_id}/evaluation", summary="Evaluate a fine-tuning job")
def create_evaluation(
    request: EvaluationRequest, job_id: JobId, platform: PlatformDep, caller: CallerDep
) -> JobEvaluation:
    """Compare the model of a job that has succeeded with its alternatives; what an earlier evaluation found is let go.

    Files are named by their ids wherever `tunewise.yaml` has a path. A new job is given its `evaluation` when it is
    created: the alternatives are then asked, and the test rows frozen, before anything is trained.
    """
    return _wire(evaluations.attach(platform, caller, job_id, request))


@router.get("/{job_id}/evaluation", summary="Look up a job's evaluation")
def retrieve_evaluation(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> JobEvaluation:
    """The evaluation as it stands."""
    return _wire(evaluations.retrieve(platform, caller, job_id))


@router.post("/{job_id}/evaluation/cancel", summary="Cancel a job's evaluation")
def cancel_evaluation(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> JobEvaluation:
    """End the evaluation of a job that has succeeded; its model stays. That of any other job ends with the job."""
    return _wire(evaluations.cancel(platform, caller, job_id))


@router.get("/{job_id}/evaluation/report", summary="Read an evaluation's report")
def retrieve_report(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> Report:
    """Everything that the evaluation has found: verdict, arms, intervals, costs, answers, and what a rerun needs."""
    return evaluations.report(platform, caller, job_id)


@router.get("/{job_id}/evaluation/report.html", summary="Read an evaluation's report as a page")
def retrieve_report_page(job_id: JobId, platform: PlatformDep, caller: CallerDep) -> HTMLResponse:
    """One page without script or outside reference."""
    return HTMLResponse(evaluations.report_page(platform, caller, job_id), headers=REPORT_HEADERS)


def _wire(evaluation: Evaluation) -> JobEvaluation:
    return JobEvaluation.model_validate(evaluation.model_dump(include=set(JobEvaluation.model_fields)))
