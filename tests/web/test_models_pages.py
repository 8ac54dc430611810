"""Playground and models in a real browser, over a real model server with the tiny model."""

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from jobs.tuned import BASE, add_tuned, make_platform
from tunewise.contracts.jobs import Caller, TunedModel
from tunewise.contracts.run import BaseModelRef
from tunewise.jobs import files, models
from tunewise.jobs.incoming import Receiver
from web.browsing import Site, is_cut, look, serious_issues, studio

CALLER = Caller(organization="o", project="default", role="admin")
QUESTION = "Title: Crème brûlée"
WAIT_MS = 90_000


@pytest.fixture(scope="module")
def site(tiny_model: BaseModelRef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A studio whose base model is the tiny one, with a tuned model on it."""
    home = tmp_path_factory.mktemp("models")
    make_platform(home, tiny_model)
    with studio(home, "--no-worker", TUNEWISE_HOME=str(home), HF_HUB_OFFLINE="1") as running:
        yield running


@pytest.fixture(scope="module")
def tuned(site: Site, tiny_model: BaseModelRef) -> TunedModel:
    receiver = Receiver(site.platform, "train.jsonl")
    receiver.write("".join(row(number) for number in range(6)).encode())
    file = files.create(site.platform, CALLER, receiver.finish(), purpose="fine-tune")
    receiver.discard()
    return add_tuned(site.platform, tiny_model, training_file=file.id)


def row(number: int) -> str:
    turns = (("system", "Be brief."), ("user", f"question {number}"), ("assistant", f"answer {number}"))
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n"


def column(page: Page, place: int) -> Locator:
    return page.get_by_role("region", name=f"Column {place}")


def ask(page: Page, question: str, columns: int) -> list[str]:
    """The answers of all columns, once they are whole."""
    before = page.get_by_text("completion tokens").count()
    page.get_by_label("Your question").fill(question)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("completion tokens")).to_have_count(before + columns, timeout=WAIT_MS)
    return [column(page, place).locator(".tw-answer").last.inner_text() for place in range(1, columns + 1)]


def sample(page: Page) -> None:
    """A random model's likeliest words are often line ends; drawn ones differ, and are the same for the same seed."""
    for field, value in (("Max tokens", "12"), ("Temperature", "1"), ("Seed", "7")):
        page.get_by_label(field).fill(value)


def copied(page: Page, place: int, language: str) -> str:
    column(page, place).get_by_role("button", name=f"Copy as {language}").last.click()
    expect(page.get_by_text("Copied").last).to_be_visible()
    return str(page.evaluate("navigator.clipboard.readText()"))


def api_answer(site: Site, body: dict[str, Any]) -> str:
    plain = {name: value for name, value in body.items() if not name.startswith("stream")}
    answer = httpx.post(f"{site.url}/v1/chat/completions", json=plain, timeout=60).json()
    return str(answer["choices"][0]["message"]["content"])


def test_base_tuned_and_examples_answer_one_question_side_by_side(
    browser: Browser, site: Site, tuned: TunedModel
) -> None:
    with look(browser, f"{site.url}/playground?model={tuned.name}") as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
        sample(page)
        answers = ask(page, QUESTION, 3)
        assert answers[0] != answers[1]
        assert serious_issues(page) == []
        bodies = [json.loads(copied(page, place, "curl").split("<<'JSON'\n")[1][:-6]) for place in (1, 2, 3)]
        assert [body["model"] for body in bodies] == [BASE, tuned.name, BASE]
        assert [len(body["messages"]) for body in bodies] == [2, 2, 10]
        assert [api_answer(site, body).strip() for body in bodies] == [answer.strip() for answer in answers]
        second = ask(page, "And now?", 3)
        turns = json.loads(copied(page, 2, "curl").split("<<'JSON'\n")[1][:-6])["messages"]
        assert [(turn["role"], turn["content"].strip()) for turn in turns] == [
            ("system", "Be brief."),
            ("user", QUESTION),
            ("assistant", answers[1].strip()),
            ("user", "And now?"),
        ]
        assert second[1] != answers[1]


def test_the_copied_commands_give_the_answer_that_was_seen(
    browser: Browser, site: Site, tuned: TunedModel, tmp_path: Path
) -> None:
    with look(browser, f"{site.url}/playground?model={tuned.name}") as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        sample(page)
        seen = ask(page, 'Say "it\'s 5 $HOME"\\n', 3)[1]
        script = tmp_path / "asked.py"
        script.write_text(copied(page, 2, "Python"), encoding="utf-8")
        told = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == seen.strip()
        told = subprocess.run(["bash", "-c", copied(page, 2, "curl")], capture_output=True, text=True, check=True)
        chunks = [json.loads(line[6:]) for line in told.stdout.splitlines() if line.startswith("data: {")]
        said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
        assert said.strip() == seen.strip()


def test_an_answer_can_be_stopped_and_a_refusal_is_told(browser: Browser, site: Site, tuned: TunedModel) -> None:
    with look(browser, f"{site.url}/playground?model={tuned.id}") as page:
        expect(page.get_by_role("alert").first).to_contain_text("There is no model")
        page.goto(f"{site.url}/playground?model={tuned.name}")
        for left in (2, 1):
            page.get_by_role("button", name="Close").last.click()
            expect(page.get_by_label("Model")).to_have_count(left)
        page.get_by_label("Max tokens").fill("1900")
        page.get_by_label("Your question").fill(QUESTION)
        page.get_by_label("Your question").press("Enter")
        expect(page.locator(".tw-answer").first).not_to_contain_text("Waiting", timeout=WAIT_MS)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("Stopped before its end").first).to_be_visible()
        page.get_by_label("Max tokens").fill("5000")
        page.get_by_label("Your question").fill(QUESTION)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_contain_text("2048")


def test_models_are_loaded_deployed_exported_and_deleted(
    browser: Browser, site: Site, tuned: TunedModel, tiny_model: BaseModelRef, tmp_path: Path
) -> None:
    doomed = add_tuned(site.platform, tiny_model, seed=2)
    with look(browser, f"{site.url}/models") as page:
        page.get_by_role("button", name=f"Load {BASE}", exact=True).click()
        unload = page.get_by_role("button", name=f"Unload {BASE}", exact=True)
        expect(unload).to_be_visible(timeout=WAIT_MS)
        assert serious_issues(page) == []
        page.get_by_role("link", name=doomed.name.split(":", 3)[3]).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Model")
        page.get_by_label("Name of the deployment").fill("owl")
        page.get_by_role("button", name="Deploy", exact=True).click()
        expect(page.get_by_text("Ready").first).to_be_visible(timeout=WAIT_MS)
        assert serious_issues(page) == []
        assert api_answer(site, {"model": "owl", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4})
        export(page, site.platform.settings.state_dir / doomed.adapter, tmp_path / "adapter.zip")
        page.get_by_role("button", name="Undeploy owl").click()
        page.get_by_role("alertdialog").get_by_role("button", name="Undeploy").click()
        expect(page.get_by_role("button", name="Undeploy owl")).to_be_hidden()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("alertdialog")).to_contain_text("go with it")
        page.get_by_role("alertdialog").get_by_role("button", name="Delete").click()
        expect(page).to_have_url(f"{site.url}/models")
        expect(page.get_by_role("link", name=doomed.name.split(":", 3)[3])).to_be_hidden()
        assert doomed.name not in {one.name for one in models.list_models(site.platform, CALLER)}
        unload.click()
        expect(page.get_by_text("Nothing. A model is loaded")).to_be_visible(timeout=WAIT_MS)
    with look(browser, f"{site.url}/models/{tuned.id}", phone=True, dark=True) as page:
        expect(page.get_by_role("link", name="train.jsonl")).to_be_visible()
        assert serious_issues(page) == []
        assert not is_cut(page)


def export(page: Page, adapter: Path, target: Path) -> None:
    with page.expect_download() as started:
        page.get_by_role("link", name="LoRA adapter (zip)").click()
    started.value.save_as(target)
    with zipfile.ZipFile(target) as archive:
        names = {name.rpartition("/")[2]: name for name in archive.namelist()}
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            assert archive.read(names[name]) == (adapter / name).read_bytes()
