"""Every route × who asks → status; and what keys, organizations and projects let through.

A route of the application that is missing from the table fails the test: access is decided for each, by a person.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import openai
import pytest
from fastapi.routing import iter_route_contexts

from api.live import BASE, ROW, Live, serving
from tunewise.contracts.jobs import Job, Role
from tunewise.errors import RequestError
from tunewise.jobs import access
from tunewise.store import models

OPEN = {"GET /healthz", "GET /readyz", "GET /openapi.json"}
ADMINS_ONLY = {
    "GET /metrics",
    "POST /v1/fine_tuning/checkpoints/{checkpoint}/permissions",
    "GET /v1/fine_tuning/checkpoints/{checkpoint}/permissions",
    "DELETE /v1/fine_tuning/checkpoints/{checkpoint}/permissions/{permission_id}",
}
# Of one's own project: what members and admins get. Another project's things are 404, and its lists are empty.
OWN: dict[str, int] = {
    "GET /metrics": 200,
    "POST /v1/files": 200,
    "GET /v1/files": 200,
    "GET /v1/files/{file_id}": 200,
    "GET /v1/files/{file_id}/content": 200,
    "DELETE /v1/files/{file_id}": 200,
    "POST /v1/uploads": 200,
    "POST /v1/uploads/{upload_id}/parts": 200,
    "POST /v1/uploads/{upload_id}/complete": 200,
    "POST /v1/uploads/{upload_id}/cancel": 200,
    "POST /v1/fine_tuning/jobs": 200,
    "GET /v1/fine_tuning/jobs": 200,
    "GET /v1/fine_tuning/jobs/{job_id}": 200,
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": 200,
    "POST /v1/fine_tuning/jobs/{job_id}/pause": 200,
    "POST /v1/fine_tuning/jobs/{job_id}/resume": 200,
    "GET /v1/fine_tuning/jobs/{job_id}/events": 200,
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": 200,
    "POST /v1/fine_tuning/jobs/{job_id}/evaluation": 200,
    "GET /v1/fine_tuning/jobs/{job_id}/evaluation": 200,
    "POST /v1/fine_tuning/jobs/{job_id}/evaluation/cancel": 200,
    "GET /v1/fine_tuning/jobs/{job_id}/evaluation/report": 200,
    "GET /v1/fine_tuning/jobs/{job_id}/evaluation/report.html": 200,
    "POST /v1/fine_tuning/checkpoints/{checkpoint}/permissions": 200,
    "GET /v1/fine_tuning/checkpoints/{checkpoint}/permissions": 200,
    "DELETE /v1/fine_tuning/checkpoints/{checkpoint}/permissions/{permission_id}": 200,
    "GET /v1/models": 200,
    "GET /v1/models/{model}": 200,
    "DELETE /v1/models/{model}": 200,
}
# No model of this name: an answer would start a model's server, and test_chat.py has those.
ASKED = ("chat/completions", "completions", "embeddings")
CHAT = {f"POST {prefix}/{kind}": 404 for prefix in ("/v1", "/openai/v1") for kind in ASKED}
RESPONSES = {f"POST {prefix}/responses": 404 for prefix in ("/v1", "/openai", "/openai/v1")}
CHAT |= {f"POST /openai/deployments/{{deployment}}/{kind}": 404 for kind in ASKED}
SHARED_WITH_AZURE = ("/v1/files", "/v1/uploads", "/v1/fine_tuning/jobs", "/v1/models")
AZURE_ONLY: dict[str, int] = {
    "POST /openai/files/import": 400,
    "POST /openai/fine_tuning/jobs/{job_id}/events": 200,
    "POST /openai/fine_tuning/jobs/{job_id}/checkpoints": 200,
    "GET /openai/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint_id}/copy": 400,
    "POST /openai/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint_id}/copy": 400,
}
ACCOUNT = (
    "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.CognitiveServices/accounts/{account}"
)
MANAGEMENT: dict[str, int] = {
    f"PUT {ACCOUNT}/deployments/{{name}}": 404,
    f"GET {ACCOUNT}/deployments/{{name}}": 404,
    f"GET {ACCOUNT}/deployments": 200,
    f"DELETE {ACCOUNT}/deployments/{{name}}": 204,
}


def under(prefix: str, routes: Iterable[str]) -> dict[str, str]:
    """Routes of /v1 as they stand under another prefix, each with the one that it is."""
    return {route.replace(" /v1/", f" {prefix}/"): route for route in routes}


OWN |= CHAT | RESPONSES | MANAGEMENT
_shared = [route for route in OWN if route.split()[1].startswith(SHARED_WITH_AZURE) and "/evaluation" not in route]
TWINS = under("/openai", _shared) | under("/openai/v1", _shared)
TWINS |= {route.replace("/openai/", "/openai/v1/"): route for route in AZURE_ONLY}
OWN |= AZURE_ONLY
OWN |= {twin: OWN[route] for twin, route in TWINS.items()}
OWN |= {f"POST {home}/fine_tuning/jobs": 201 for home in ("/openai", "/openai/v1")}
# Naming nothing of anyone's: these answer another project's key as its own.
NAMELESS = {
    "POST /v1/files",
    "GET /metrics",
    "GET /v1/files",
    "POST /v1/uploads",
    "GET /v1/fine_tuning/jobs",
    "GET /v1/models",
}
# They name nothing that exists, or are refused whatever they name.
REFUSED = {route for route, status in AZURE_ONLY.items() if status == 400}
FOREIGNERS_TOO = {*CHAT, *RESPONSES, *MANAGEMENT, *REFUSED}
# A job is created from a file; another project's is named as a wrong field, not as a wrong URL.
FOREIGN = {"POST /v1/fine_tuning/jobs": 400}


ROLES: tuple[Role, ...] = ("admin", "member")


class Keys(NamedTuple):
    """A server that needs keys, and one of each kind."""

    live: Live
    owner: openai.OpenAI
    member: str
    admin: str
    stranger: str


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    with serving(tmp_path_factory.mktemp("keys")) as live:
        member = access.create_key(live.platform, role="member", organization="o", project="p").secret
        admin = access.create_key(live.platform, role="admin", organization="o", project="p").secret
        stranger = access.create_key(live.platform, role="admin", organization="o", project="q").secret
        access.create_key(live.platform, role="member", organization="o", project="friend")
        access.create_key(live.platform, role="admin", organization="others", project="theirs")
        with live.client(admin) as owner:
            yield Keys(live, owner, member, admin, stranger)


def routes(live: Live) -> set[str]:
    found = set()
    for route in iter_route_contexts(live.app.routes):
        path = re.sub(r":path}", "}", route.path or "")
        found |= {f"{method} {path}" for method in (route.methods or set()) - {"HEAD"}}
    return found


def made(keys: Keys, route: str) -> dict[str, str]:
    """New things of project p, and the values that they give a route's parameters."""
    owner, live = keys.owner, keys.live
    upload = owner.uploads.create(filename="a", bytes=1, mime_type="text/plain", purpose="user_data").id
    model = live.model(live.job(project="p", status="succeeded")).name
    granted = owner.fine_tuning.checkpoints.permissions.create(model, project_ids=["friend"])
    file_id = owner.files.create(file=("a.jsonl", ROW * 12), purpose="fine-tune").id
    return {
        "file_id": file_id,
        "upload_id": upload,
        "part_id": owner.uploads.parts.create(upload, data=b"x").id,
        "model": model,
        "checkpoint": model,
        "permission_id": next(iter(granted)).id,
        "checkpoint_id": model,
        **dict.fromkeys(("deployment", "subscription", "group", "account", "name"), "none"),
        "job_id": job_for(live, route, file_id).id,
    }


def job_for(live: Live, route: str, file_id: str) -> Job:
    """A job of project p that the route can do something with."""
    if "/evaluation" not in route:
        return live.job(project="p", status="paused" if route.endswith("resume") else "running")
    job = live.job(project="p", status="succeeded", file=file_id)
    live.model(job, is_final=True)
    live.evaluation(job, "pending" if route.endswith("cancel") else "succeeded")
    return job


def request(live: Live, route: str, values: dict[str, str], key: str | None) -> httpx.Response:
    """A right request for a route."""
    method, path = route.split()
    bodies: dict[str, dict[str, object]] = {
        "POST /v1/fine_tuning/jobs": {"model": BASE, "training_file": values["file_id"]},
        "POST /v1/fine_tuning/jobs/{job_id}/evaluation": {
            "test_file": values["file_id"],
            "graders": [{"name": "exact", "type": "exact_match"}],
        },
        "POST /v1/uploads": {"filename": "a", "bytes": 1, "mime_type": "text/plain", "purpose": "user_data"},
        "POST /v1/uploads/{upload_id}/complete": {"part_ids": [values["part_id"]]},
        "POST /v1/fine_tuning/checkpoints/{checkpoint}/permissions": {"project_ids": ["friend"]},
    }
    forms: dict[str, dict[str, tuple[str | None, bytes]]] = {
        "POST /v1/files": {"file": ("a", b"x"), "purpose": (None, b"user_data")},
        "POST /v1/uploads/{upload_id}/parts": {"data": ("a", b"x")},
    }
    for asked in CHAT:
        said = {"messages": [{"role": "user", "content": "a"}]} if "chat" in asked else {"prompt": "a"}
        bodies[asked] = {"model": "none", **said}
    bodies |= {asked: {"model": "none", "input": "a"} for asked in RESPONSES}
    bodies[next(iter(MANAGEMENT))] = {
        "sku": {"name": "standard", "capacity": 1},
        "properties": {"model": {"format": "OpenAI", "name": "none", "version": "1"}},
    }
    bodies["POST /openai/files/import"] = {"filename": "a", "purpose": "fine-tune", "content_url": "https://x.test/a"}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    version = {"api-version": "2024-10-21"} if not path.startswith(("/v1", "/openai/v1", "/metrics")) else {}
    origin = TWINS.get(route, route)
    return live.http.request(
        method,
        path.format(**values),
        json=bodies.get(origin),
        files=forms.get(origin),
        headers=headers,
        params=version,
    )


def test_the_table_names_every_route(keys: Keys) -> None:
    assert routes(keys.live) == OPEN | set(OWN)


@pytest.mark.parametrize("route", sorted(OPEN))
def test_open_routes_need_no_key(keys: Keys, route: str) -> None:
    assert keys.live.http.get(route.split()[1]).status_code == 200


@pytest.mark.parametrize("route", sorted(OWN))
def test_each_route_answers_each_caller_as_the_table_says(keys: Keys, route: str) -> None:
    origin = TWINS.get(route, route)
    for_strangers = OWN[route] if origin in NAMELESS | FOREIGNERS_TOO else FOREIGN.get(origin, 404)
    expected = {
        "no key": (None, 401),
        "wrong key": ("tw-wrong", 401),
        "other project's admin": (keys.stranger, for_strangers),
        "member": (keys.member, 403 if route in ADMINS_ONLY else OWN[route]),
        "admin": (keys.admin, OWN[route]),
    }
    things = made(keys, route)
    answers = {who: request(keys.live, route, things, key) for who, (key, _) in expected.items() if who != "admin"}
    # The member may have deleted or ended them.
    answers["admin"] = request(keys.live, route, made(keys, route), keys.admin)
    assert {who: answer.status_code for who, answer in answers.items()} == {
        who: status for who, (_, status) in expected.items()
    }
    for who in ("no key", "wrong key"):
        assert answers[who].json()["error"]["code"] in {"missing_api_key", "invalid_api_key"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/files?limit=0", None),
        ("GET", "/v1/files?nothing=1", None),
        ("GET", "/openai/files", None),
        ("POST", "/v1/fine_tuning/jobs", b"{"),
        ("POST", "/v1/fine_tuning/jobs", b'{"nothing": 1}'),
        ("POST", "/v1/chat/completions", b"{"),
        ("POST", "/v1/files", b"no form"),
    ],
)
def test_without_a_key_nothing_is_told_of_what_else_is_wrong(
    keys: Keys, method: str, path: str, body: bytes | None
) -> None:
    headers = {"Content-Type": "application/json"}
    assert keys.live.http.request(method, path, content=body, headers=headers).status_code == 401
    known = keys.live.http.request(method, path, content=body, headers=headers | {"api-key": keys.admin})
    assert known.status_code == 400


@pytest.mark.parametrize("path", ["files", "fine_tuning/jobs"])
def test_lists_hold_nothing_of_another_project(keys: Keys, path: str) -> None:
    made(keys, "")
    keys.live.job(project="p")
    lists = {
        key: keys.live.http.get(f"/v1/{path}", headers={"api-key": key}).json()["data"]
        for key in (keys.member, keys.stranger)
    }
    mine = {item["id"] for item in lists[keys.member]}
    assert mine
    assert not mine & {item["id"] for item in lists[keys.stranger]}


def test_headers_must_fit_the_key_and_an_admin_may_name_the_organizations_projects(keys: Keys) -> None:
    def status(key: str, **headers: str) -> int:
        named = {f"OpenAI-{name}": value for name, value in headers.items()}
        return keys.live.http.get("/v1/files", headers={"api-key": key, **named}).status_code

    assert status(keys.member, Organization="o", Project="p") == 200
    assert status(keys.member, Project="q") == 403
    assert status(keys.member, Organization="other") == 403
    assert status(keys.admin, Project="q") == 200
    assert status(keys.admin, Project="q", Organization="o") == 200
    assert status(keys.admin, Organization="other") == 403
    assert [status(keys.admin, Project=project) for project in ("theirs", "nobodys")] == [403, 403]


def test_a_visit_reaches_the_projects_that_its_key_does(keys: Keys) -> None:
    platform = keys.live.platform
    admin, member = (access.create_key(platform, role=role, organization="o", project="p").key for role in ROLES)
    assert access.identify_key(platform, admin.id, project="q").project == "q"
    for key, project in ((admin, "theirs"), (admin, "nobodys"), (member, "q")):
        with pytest.raises(RequestError) as refused:
            access.identify_key(platform, key.id, project=project)
        assert refused.value.code == "wrong_project"


def test_a_project_of_others_looks_like_none(keys: Keys) -> None:
    def said(project: str) -> str:
        headers = {"api-key": keys.admin, "OpenAI-Project": project}
        text: str = keys.live.http.get("/v1/files", headers=headers).json()["error"]["message"]
        return text.replace(project, "?")

    assert said("theirs") == said("nobodys")


def test_a_checkpoint_is_shared_within_the_organization_only(keys: Keys) -> None:
    checkpoint = keys.live.model(keys.live.job(project="p", status="succeeded")).name
    for project in ("theirs", "nobodys"):
        with pytest.raises(openai.BadRequestError) as refused:
            keys.owner.fine_tuning.checkpoints.permissions.create(checkpoint, project_ids=["friend", project])
        assert refused.value.code == "invalid_project"
    assert keys.owner.fine_tuning.checkpoints.permissions.list(checkpoint).data == []


def test_a_project_is_one_organizations(keys: Keys) -> None:
    with pytest.raises(RequestError) as refused:
        access.create_key(keys.live.platform, role="member", organization="other", project="p")
    assert refused.value.code == "project_taken"


def test_without_keys_the_server_answers_to_this_machines_names_only(tmp_path: Path) -> None:
    with serving(tmp_path) as live:

        def status(host: str, key: str = "placeholder") -> int:
            return live.http.get("/v1/files", headers={"Host": host, "api-key": key}).status_code

        assert [status(host) for host in ("localhost", "127.0.0.1:8321", "[::1]:8321")] == [200, 200, 200]
        assert [status(host) for host in ("attacker.example", "attacker.example:8321", "[10.0.0.1")] == [403, 403, 403]
        secret = access.create_key(live.platform, role="member", organization=None, project=None).secret
        assert status("tunewise.example", secret) == 200


def test_a_shared_checkpoint_is_seen_and_its_job_is_not(keys: Keys) -> None:
    job = keys.live.job(project="p", status="succeeded")
    checkpoint = keys.live.model(job)
    with keys.live.client(keys.admin) as owner, keys.live.client(keys.stranger) as stranger:
        owner.fine_tuning.checkpoints.permissions.create(checkpoint.name, project_ids=["q"])
        assert stranger.models.retrieve(checkpoint.name).id == checkpoint.name
        with pytest.raises(openai.NotFoundError):
            stranger.fine_tuning.jobs.retrieve(job.id)
    with keys.live.platform.database.read() as session:
        assert models.owned(session, "q", checkpoint.name) is None


def test_without_a_key_the_headers_choose_the_project_and_any_key_is_taken(tmp_path: Path) -> None:
    with serving(tmp_path) as live:
        with live.client("sk-placeholder", organization="<org id>", project="<project id>") as client:
            client.files.create(file=("a", b"x"), purpose="user_data")
            assert len(client.files.list().data) == 1
        assert live.http.get("/v1/files").json()["data"] == []


def test_a_revoked_key_ends_at_once_and_the_last_one_does_not_open_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as live:
        made = access.create_key(live.platform, role="member", organization=None, project=None)
        headers = {"Authorization": f"Bearer {made.secret}"}
        assert live.http.get("/v1/files", headers=headers).status_code == 200
        access.revoke_key(live.platform, made.key.id)
        assert live.http.get("/v1/files", headers=headers).status_code == 401
        assert live.http.get("/v1/files").status_code == 401


def test_a_key_is_nowhere_in_the_state(tmp_path: Path) -> None:
    with serving(tmp_path) as live:
        secret = access.create_key(live.platform, role="member", organization=None, project=None).secret
        assert len(secret) == len("tw-") + 64
        stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
        assert secret.encode() not in stored
