"""The form of a new run in a real browser: every method and setting that the API takes, and the same as code."""

import json
import re

import pytest
from playwright.sync_api import Browser, Page, expect
from pydantic import BaseModel

from tunewise.contracts.fine_tuning import METHOD_TYPES, Method, TrainingOptions
from tunewise.contracts.jobs import Caller
from tunewise.jobs import files
from tunewise.jobs.incoming import Receiver
from tunewise.web.methods import METHODS
from web.browsing import Site, is_cut, look, serious_issues

CALLER = Caller(organization="tunewise", project="default", role="admin")
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def address(site: Site) -> str:
    """The form with a file of rows chosen."""
    rows = [
        {"messages": [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}]}
        for n in range(12)
    ]
    receiver = Receiver(site.platform, "rows.jsonl")
    receiver.write("".join(json.dumps(row) + "\n" for row in rows).encode())
    file = files.create(site.platform, CALLER, receiver.finish(), purpose="fine-tune")
    receiver.discard()
    return f"{site.url}/runs/new?training={file.id}"


def choose(page: Page, label: str, words: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=words, exact=True).click()


def names_of(model: type[BaseModel]) -> list[str]:
    """Every field that is filled in, those of models within it too."""
    names = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += names_of(inner)
        else:
            names.append(name)
    return names


def code(page: Page) -> str:
    return page.locator("code[data-language=python]").inner_text()


def test_every_setting_of_every_method_is_offered(browser: Browser, address: str) -> None:
    with look(browser, address) as page:
        expect(page.get_by_text("Time to train")).to_be_visible(timeout=WAIT_MS)
        page.get_by_text("Every setting").click()
        page.get_by_text("The same without a browser").click()
        assert "method" not in code(page)
        assert "extra_body" not in code(page)
        for kind in METHOD_TYPES:
            if kind != "supervised":
                choose(page, "Method", METHODS[kind].title)
                expect(page.locator("code[data-language=python]")).to_contain_text(
                    f"{{'type': '{kind}'}}", timeout=WAIT_MS
                )
            labels = page.locator(".tw-settings").all_inner_texts()
            for name in names_of(type(Method(type=kind).settings)) + names_of(TrainingOptions):
                assert any(re.search(rf"(?m)^{name}(:|$)", text) for text in labels), (kind, name)
        assert serious_issues(page) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert not is_cut(page)


def test_what_is_set_is_what_the_code_asks_for_and_what_does_not_fit_is_said(browser: Browser, address: str) -> None:
    with look(browser, address) as page:
        expect(page.get_by_text("Time to train")).to_be_visible(timeout=WAIT_MS)
        page.get_by_text("Every setting").click()
        page.get_by_text("The same without a browser").click()
        page.get_by_label("Label smoothing").fill("0.2")
        choose(page, "Messages to learn from", "last_assistant")
        page.get_by_text("Quick: one epoch").click()
        page.get_by_role("checkbox", name="dora").click()
        page.get_by_label("Dropout").fill("0.1")
        page.get_by_label("Layers with an adapter").fill("q_proj, v_proj")
        page.get_by_label("Last layers only").fill("4")
        page.get_by_label("Last layers only").blur()
        shown = page.locator("code[data-language=python]")
        for part in (
            "'hyperparameters': {'n_epochs': 1}",
            "'loss_on': 'last_assistant'",
            "'label_smoothing': 0.2",
            "'lora': {'dropout': 0.1, 'targets': ['q_proj', 'v_proj'], 'dora': True}",
            "'top_layers': 4",
        ):
            expect(shown).to_contain_text(part, timeout=WAIT_MS)
        page.get_by_label("Epochs to wait before stopping early").fill("2")
        page.get_by_label("Epochs to wait before stopping early").blur()
        expect(page.get_by_text("stopping early needs a validation file")).to_be_visible(timeout=WAIT_MS)
        expect(page.get_by_role("button", name="Start the run")).to_be_disabled()
        page.get_by_label("Epochs to wait before stopping early").fill("")
        page.get_by_label("Label smoothing").fill("3")
        page.get_by_label("Label smoothing").blur()
        expect(page.locator(".tw-bad-text", has_text="label_smoothing: ")).to_be_visible(timeout=WAIT_MS)
        page.get_by_label("Label smoothing").fill("0")
        page.get_by_label("Label smoothing").blur()
        expect(page.get_by_role("button", name="Start the run")).to_be_enabled(timeout=WAIT_MS)
