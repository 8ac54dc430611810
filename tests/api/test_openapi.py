"""/openapi.json is complete, and the server keeps to it: schemathesis asks every operation what it says it answers."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.live import ROW, serving

SECONDS = 60.0
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


def test_the_server_keeps_to_its_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No server error, no status and no answer that the document does not have, within a minute."""
    counts: Counter[str] = Counter()
    with serving(tmp_path) as live:
        live.http.post("/v1/files", files={"file": ("a.jsonl", ROW * 12), "purpose": (None, b"fine-tune")})
        live.job()
        schema = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
        found = [result.ok() for result in schema.get_all_operations()]
        for number, operation in enumerate(found):
            ends = time.monotonic() + (SECONDS - counts["milliseconds"] / 1000) / (len(found) - number)
            started = time.monotonic()
            _ask(operation, ends, counts)
            counts["milliseconds"] += int((time.monotonic() - started) * 1000)
        assert live.http.get("/healthz").status_code == 200
    summary = {"operations": len(found), **counts, "server_errors": 0, "undocumented": 0}
    with capsys.disabled():
        print(json.dumps(summary))  # noqa: T201 - the counts are asked for
    assert counts["cases"] > 5 * len(found)


def _ask(operation: Any, ends: float, counts: Counter[str]) -> None:  # noqa: ANN401 - schemathesis gives no type
    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: schemathesis.Case) -> None:
        if time.monotonic() < ends:
            answer = case.call_and_validate(checks=CHECKS)
            counts["cases"] += 1
            counts[f"{answer.status_code // 100}xx"] += 1

    from hypothesis import given

    given(case=operation.as_strategy())(ask)()
