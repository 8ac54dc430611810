"""Builds finished evaluations for the tests: recipes of our own, answers, scores, costs, and the report over them.

Everything is drawn from a seed, so golden files stay as they are.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tunewise.contracts.check import CheckReport, FileReport, Finding, InspectedRow, InspectedToken, LeakedRow, Split
from tunewise.contracts.config import DataConfig, EvaluationConfig, Prices, RunConfig, UseCase
from tunewise.contracts.evaluation import Answer, ArmAnswers, ArmKind, ArmResult, GraderScore, Question, Report
from tunewise.contracts.graders import ExactMatch, JsonSetF1
from tunewise.contracts.run import BaseModelRef, DataFile, LoraSpec, RowCounts, RunResult, StepMetrics, TrainSpec
from tunewise.evaluate.decision import Evidence, decision_record
from tunewise.evaluate.economics import arm_result, economics
from tunewise.evaluate.statistics import mean_interval
from tunewise.evaluate.verdict import decide

Array = NDArray[np.float64]
PRIMARY = "ingredients"
FOODS = ("butter", "flour", "eggs", "sugar", "salt", "milk", "garlic", "onion", "rice", "basil", "cream", "lemon juice")
DISHES = ("Corn pudding", "Friendship tea", "Barley soup", "Plum tart", "Sunday rice", "Herb butter")


class ArmStory(NamedTuple):
    """How one arm does: mean score, tokens and speed."""

    arm: str
    kind: ArmKind
    mean: float
    prompt_tokens: int
    cached_tokens: int
    wall_seconds: float
    failed: int = 0


class Story(NamedTuple):
    """What differs between the runs that the tests tell of."""

    title: str
    rows: int
    arms: tuple[ArmStory, ...]
    is_binary: bool = False
    leaked: int = 0
    leaked_from: Split = "train"
    machine_hour: float | None = 0.35
    monthly: int | None = 40_000


RECIPES = Story(
    "recipe-assistant",
    200,
    (
        ArmStory("prompt", "prompt", 0.11, 148, 24, 96.0),
        ArmStory("few_shot", "few_shot", 0.61, 812, 640, 118.0),
        ArmStory("retrieval", "retrieval", 0.66, 744, 24, 187.0),
        ArmStory("tuned", "tuned", 0.88, 148, 24, 41.0),
        ArmStory("majority", "majority", 0.12, 0, 0, 0.0),
        ArmStory("nearest", "nearest", 0.38, 0, 0, 0.0),
    ),
)
GSM8K = Story(
    "gsm8k",
    1_319,
    (
        ArmStory("prompt", "prompt", 0.011, 120, 8, 900.0),
        ArmStory("few_shot", "few_shot", 0.016, 760, 560, 1_300.0),
        ArmStory("tuned", "tuned", 0.029, 120, 8, 950.0),
        ArmStory("majority", "majority", 0.004, 0, 0, 0.0),
        ArmStory("nearest", "nearest", 0.009, 0, 0, 0.0),
    ),
    is_binary=True,
    machine_hour=None,
    monthly=None,
)
UNDECIDED = Story(
    "ticket-routing",
    90,
    (
        ArmStory("prompt", "prompt", 0.42, 210, 180, 60.0),
        ArmStory("few_shot", "few_shot", 0.74, 905, 860, 66.0, failed=2),
        ArmStory("tuned", "tuned", 0.79, 210, 180, 64.0),
        ArmStory("majority", "majority", 0.13, 0, 0, 0.0),
        ArmStory("nearest", "nearest", 0.55, 0, 0, 0.0),
    ),
    is_binary=True,
)


def arm_scores(story: Story, seed: int = 5) -> dict[str, Array]:
    """Scores of each arm on the same rows: a row's difficulty is shared by all arms, as on real data."""
    difficulty = np.random.default_rng(seed).random(story.rows)
    scores = {}
    for index, arm in enumerate(story.arms):
        noise = np.random.default_rng(seed + 1 + index).random(story.rows)
        rank = (0.5 * difficulty + 0.5 * noise).argsort().argsort() / story.rows
        if story.is_binary:
            values = (rank < arm.mean).astype(float)
        else:
            values = np.clip(arm.mean + 0.35 * (0.5 - rank) * 2 * min(arm.mean, 1 - arm.mean) / 0.35, 0, 1).round(3)
        values[: arm.failed] = 0.0
        scores[arm.arm] = values
    return scores


def collected(story: ArmStory, rows: int, seed: int) -> ArmAnswers:
    rng = np.random.default_rng(seed)
    is_floor = story.kind in {"majority", "nearest"}
    return ArmAnswers(
        arm=story.arm,
        kind=story.kind,
        model=None if is_floor else "smollm2-135m-instruct" + (":tuned" if story.kind == "tuned" else ""),
        settings={"concurrency": 32, "temperature": 0.0},
        answers=tuple(_answer(story, row, rng, is_floor) for row in range(rows)),
        concurrency=32,
        wall_seconds=story.wall_seconds,
    )


def _answer(story: ArmStory, row: int, rng: np.random.Generator, is_floor: bool) -> Answer:
    failed = row < story.failed
    listed = json.dumps([FOODS[i] for i in rng.choice(len(FOODS), 4, replace=False)])
    text = f"Sure! Here are the generic ingredients:\n{listed}" if story.kind == "prompt" else listed
    return Answer(
        row=row,
        text="" if failed else text,
        finish_reason="" if failed else "stop",
        prompt_tokens=story.prompt_tokens,
        cached_tokens=story.cached_tokens,
        completion_tokens=0 if is_floor else 31,
        seconds=0.0 if is_floor else float(rng.gamma(4, story.wall_seconds / rows_per_wave(story))),
        error="the connection was closed" if failed else None,
    )


def rows_per_wave(story: ArmStory) -> float:
    """A divisor that turns wall time into plausible latencies."""
    return 40.0 if story.wall_seconds else 1.0


def arm_results(story: Story, prices: Prices, seed: int = 5) -> list[ArmResult]:
    scores = arm_scores(story, seed)
    return [
        arm_result(
            collected(arm, story.rows, seed + index),
            [grader_score(PRIMARY, scores[arm.arm]), grader_score("exact", (scores[arm.arm] > 0.95).astype(float))],
            prices,
        )
        for index, arm in enumerate(story.arms)
    ]


def grader_score(name: str, scores: Sequence[float] | Array, extras: dict[str, float] | None = None) -> GraderScore:
    values = tuple(float(score) for score in scores)
    return GraderScore(grader=name, mean=mean_interval(values, 0.95, 0), rows=values, extras=extras or {})


def check_report(story: Story) -> CheckReport:
    leaked = tuple(
        LeakedRow(split="test", line=3 + 9 * i, source=story.leaked_from, source_line=40 + i, similarity=0.97)
        for i in range(story.leaked)
    )
    overlong = Finding(
        severity="warning",
        code="near_duplicate",
        file="train.jsonl",
        line=412,
        message="this row nearly repeats line 87",
        remedy="keep one of the two",
    )
    email = Finding(
        severity="note",
        code="personal_data",
        file="train.jsonl",
        line=33,
        param="messages[1].content",
        value="a…@example.org",
        message="this looks like an e-mail address",
        remedy="replace it if the model must not repeat it",
    )
    return CheckReport(
        files=(_file("train", 600), _file("valid", 100), _file("test", story.rows)),
        findings=(overlong, email),
        leakage=leaked,
        inspected=tuple(_inspected(line) for line in (1, 2, 3)),
    )


def _file(split: str, rows: int) -> FileReport:
    return FileReport.model_validate(
        {
            "split": split,
            "path": f"{split}.jsonl",
            "sha256": hashlib.sha256(split.encode()).hexdigest(),
            "bytes": rows * 700,
            "lines": rows,
            "rows": rows,
            "format": "chat",
            "roles": {"system": rows, "user": rows, "assistant": rows},
            "messages_per_row": None,
            "tokens_per_row": {
                "minimum": 62, "p5": 80, "mean": 163.2, "median": 151, "p95": 301, "maximum": 512,
                "total": round(163.2 * rows),
                "histogram": [3, 9, 30, 50, 42, 25, 14, 9, 6, 4, 3, 2, 1, 1, 0, 0, 0, 0, 0, 1],
            },
            "trained_tokens_per_row": None,
            "fitted": None,
            "overlong_rows": 0,
            "nothing_to_train_on": 0,
            "exact_duplicates": 0,
            "near_duplicates": 1 if split == "train" else 0,
        }
    )  # fmt: skip


def _inspected(line: int) -> InspectedRow:
    prompt = ["<|im_start|>", "user", "\n", "Title", ":", f" {DISHES[line % 6]}", "\n", "Generic", " ingredients", ":"]
    answer = ['["', FOODS[line], '", "', FOODS[line + 1], '"]', "<|im_end|>"]
    tokens = [
        InspectedToken(text=t, trained=False) for t in [*prompt, "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"]
    ]
    return InspectedRow(
        file="train.jsonl", line=line, tokens=(*tokens, *(InspectedToken(text=t, trained=True) for t in answer))
    )


def training_run(story: Story) -> tuple[TrainSpec, RunResult, tuple[StepMetrics, ...]]:
    spec = TrainSpec(
        base_model=BaseModelRef(
            name="smollm2-135m-instruct",
            path=Path("models/smollm2"),
            revision="5f" * 32,
            parameters=134_515_008,
            context_length=8_192,
        ),
        train_file=DataFile(path=Path("train.jsonl"), sha256="ab" * 32, rows=600),
        valid_file=DataFile(path=Path("valid.jsonl"), sha256="cd" * 32, rows=100),
        n_epochs=3,
        batch_size=4,
        learning_rate=2e-4,
        schedule="linear",
        warmup_ratio=0.05,
        weight_decay=0.0,
        max_grad_norm=1.0,
        lora=LoraSpec(rank=16, alpha=32, dropout=0.0, targets="all-linear"),
        max_tokens=512,
        overlong="error",
        dtype="bfloat16",
        seed=42,
        valid_every_steps=50,
        valid_sample_rows=32,
        checkpoint_minutes=10,
        early_stopping_patience=None,
        versions={"tunewise": "0.1.0", "torch": "2.13.0"},
    )
    result = RunResult(
        status="succeeded",
        steps=450,
        epochs=3.0,
        trained_tokens=293_760,
        supervised_tokens=54_000,
        rows=RowCounts(rows=600, trained=600, truncated=0, dropped=0, nothing_to_train_on=0),
        train_loss=0.21,
        valid_loss=0.27,
        valid_mean_token_accuracy=0.93,
        seconds=437.0,
        tokens_per_second=672.0,
        peak_memory_bytes=1_480_000_000,
        adapter="adapter",
        adapter_sha256="ef" * 32,
    )
    return spec, result, tuple(_step(step) for step in range(1, 451))


def _step(step: int) -> StepMetrics:
    noise = float(np.random.default_rng(step).normal(0, 0.06))
    loss = 0.22 + 1.9 * float(np.exp(-step / 45))
    is_epoch, is_sample = step % 150 == 0, step % 50 == 0
    return StepMetrics(
        step=step,
        total_steps=450,
        train_loss=max(loss + noise, 0.05),
        train_mean_token_accuracy=0.9,
        valid_loss=loss + 0.05 if is_sample else None,
        full_valid_loss=loss + 0.045 if is_epoch else None,
        tokens=step * 652,
        seconds=step * 0.97,
    )


def run_config(story: Story) -> RunConfig:
    return RunConfig(
        data=DataConfig(train=Path("train.jsonl"), valid=Path("valid.jsonl"), test=Path("test.jsonl")),
        graders=(JsonSetF1(name=PRIMARY, primary=True), ExactMatch(name="exact")),
        prices=Prices(currency="EUR", machine_hour=story.machine_hour),
        use_case=UseCase(
            behaviour="Name the generic ingredients of a recipe as a JSON list.",
            effort="Two days of one person, mostly checking labels.",
            requests_per_month=story.monthly,
        ),
    )


def evidence(story: Story) -> Evidence:
    config = run_config(story)
    spec, result, _ = training_run(story)
    arms, check = arm_results(story, config.prices), check_report(story)
    costs = economics(arms, result, config.prices)
    verdict = decide(arms, PRIMARY, costs, check, config)
    return Evidence(config, PRIMARY, check, spec, result, arms, costs, verdict)


def report(story: Story) -> Report:
    known = evidence(story)
    rng = np.random.default_rng(1)
    return Report(
        title=story.title,
        created_at=1_795_000_000.0,
        primary_grader=PRIMARY,
        verdict=known.verdict,
        arms=tuple(known.arms),
        economics=known.economics,
        decision=decision_record(known),
        check=known.check,
        spec=known.spec,
        result=known.result,
        curve=training_run(story)[2],
        questions=tuple(_question(row, rng) for row in range(story.rows)),
        answers=tuple(collected(arm, story.rows, 5 + index) for index, arm in enumerate(story.arms)),
        manifest={
            "config sha256": "12" * 32,
            "test rows sha256": "34" * 32,
            "tunewise": "0.1.0",
            "python": "3.11.9",
            "torch": "2.13.0",
            "machine": "2 cores, 15.6 GiB",
        },
    )


def _question(row: int, rng: np.random.Generator) -> Question:
    foods = [FOODS[i] for i in rng.choice(len(FOODS), 4, replace=False)]
    lines = json.dumps([f"{n + 1} c. {food}" for n, food in enumerate(foods)])
    return Question(
        line=row + 1,
        question=f"Title: {DISHES[row % 6]}\n\nIngredients: {lines}\n\nGeneric ingredients: ",
        reference=json.dumps(foods),
    )


def evaluation_terms(**changes: float) -> EvaluationConfig:
    return EvaluationConfig.model_validate(changes)
