"""/v1/fine_tuning/jobs/{job_id}/evaluation on the wire: what is answered, and what is refused by which name."""

from typing import Any

import pytest

from api.live import ROW, Live

SQL = {"name": "q", "type": "sql_execution", "database": "/etc/passwd"}
EXACT = {"name": "exact", "type": "exact_match"}


def uploaded(live: Live) -> str:
    file: str = live.http.post(
        "/v1/files", files={"file": ("a.jsonl", ROW * 12), "purpose": (None, b"fine-tune")}
    ).json()["id"]
    return file


def evaluated(live: Live) -> str:
    """A job with a model, whose evaluation has come to a verdict."""
    job = live.job(status="succeeded", file=uploaded(live))
    live.model(job, is_final=True)
    live.evaluation(job, "succeeded")
    return f"/v1/fine_tuning/jobs/{job.id}/evaluation"


def test_an_evaluation_is_looked_up_read_and_asked_for_again(live: Live) -> None:
    url, test_file = evaluated(live), uploaded(live)
    found = live.http.get(url).json()
    assert (found["object"], found["status"]) == ("fine_tuning.job.evaluation", "succeeded")
    report = live.http.get(f"{url}/report").json()
    assert report["verdict"]["outcome"]
    page = live.http.get(f"{url}/report.html")
    assert page.headers["content-type"].startswith("text/html")
    assert "sandbox" in page.headers["content-security-policy"]
    assert report["verdict"]["headline"].split()[0] in page.text

    again = live.http.post(url, json={"test_file": test_file, "graders": [EXACT]}).json()
    assert (again["status"], again["request"]["test_file"]) == ("pending", test_file)
    assert live.http.get(f"{url}/report").json()["error"]["code"] == "report_not_found"
    assert live.http.post(f"{url}/cancel").json()["status"] == "cancelled"
    assert live.http.post(f"{url}/cancel").json()["error"]["code"] == "invalid_state"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "test_file", "missing_required_parameter"),
        ({"graders": []}, "graders", "invalid_value"),
        ({"graders": [{"name": "a", "type": "poetry"}]}, "graders.0", "invalid_value"),
        ({"data": {}}, "data", "unknown_parameter"),
        ({"test_file": "file-0"}, "test_file", "invalid_file"),
        ({"arms": {"few_shot": {"name": "../../../tmp/x"}}}, "arms.few_shot.name", "invalid_value"),
        (
            {"graders": [{"name": "q", "type": "sql_execution", "database": "/etc/passwd"}]},
            "graders.0.database",
            "invalid_file",
        ),
        ({"graders": [EXACT, EXACT]}, "graders", "duplicate_grader"),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(live: Live, body: dict[str, Any], param: str, code: str) -> None:
    url = evaluated(live)
    asked = {"test_file": uploaded(live), "graders": [EXACT]} | body if body else {"graders": [EXACT]}
    answer = live.http.post(url, json=asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert live.http.get(url).json()["status"] == "succeeded"


def test_a_job_without_evaluation_has_none(live: Live) -> None:
    url = f"/v1/fine_tuning/jobs/{live.job().id}/evaluation"
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/report"), ("GET", "/report.html")):
        answer = live.http.request(method, url + path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "evaluation_not_found")
