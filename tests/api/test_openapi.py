"""/openapi.json is complete, and the server keeps to it: schemathesis asks every operation what it says it answers."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.live import ROW, serving
from jobs.nursery import Nursery

SECONDS = float(os.environ.get("TUNEWISE_TEST_SCHEMA_SECONDS", "12"))
LEAST_CASES = 4  # of each operation, however slow the machine is
ANSWER_SECONDS = 120  # the first chat starts a model server
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with serving(tmp_path_factory.mktemp("document")) as live:
        loaded: dict[str, Any] = live.http.get("/openapi.json").json()
        return loaded


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_operation_has_a_summary_a_description_and_its_errors(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert {"400", "401", "404", "500"} <= set(operation["responses"]), name
        assert "422" not in operation["responses"], name


def test_every_parameter_is_described_and_the_path_s_have_examples(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (name, parameter["name"])
            assert parameter["in"] != "path" or parameter["schema"].get("examples"), (name, parameter["name"])


def test_the_server_keeps_to_its_document(tmp_path: Path, nursery: Nursery, figures: list[str]) -> None:
    """No server error, no status and no answer that the document does not have, within the time that there is."""
    counts: Counter[str] = Counter()
    broken: list[str] = []
    with serving(tmp_path, nursery=nursery) as live:
        live.http.post("/v1/files", files={"file": ("a.jsonl", ROW * 12), "purpose": (None, b"fine-tune")})
        live.job()
        schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
        found = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
        began = time.monotonic()
        for number, operation in enumerate(found):
            left = SECONDS - (time.monotonic() - began)
            _ask(operation, time.monotonic() + left / (len(found) - number), counts, broken)
        assert len(found) == sum(
            len(operations) for operations in live.http.get("/openapi.json").json()["paths"].values()
        )
        assert live.http.get("/healthz").status_code == 200
    summary = {"operations": len(found), "cases": counts.total(), **counts, "broken_promises": len(broken)}
    figures.append(f"schemathesis: {json.dumps(summary)}")
    assert broken == []
    assert counts["5xx"] == 0
    assert counts.total() >= LEAST_CASES * len(found) / 2  # some operations have fewer cases to tell apart


def _ask(operation: Any, ends: float, counts: Counter[str], broken: list[str]) -> None:  # noqa: ANN401 - untyped there
    """Send cases until the time is over; count the answers by hundreds, and keep what contradicts the document."""
    sent = 0

    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:  # noqa: ANN401 - untyped there
        nonlocal sent
        if sent >= LEAST_CASES and time.monotonic() > ends:
            return
        sent += 1
        answer = case.call(timeout=ANSWER_SECONDS)
        counts[f"{answer.status_code // 100}xx"] += 1
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as failures:
            broken.extend(f"{case.method} {case.formatted_path}: {failure}" for failure in failures.exceptions)

    given(case=operation.as_strategy())(ask)()
