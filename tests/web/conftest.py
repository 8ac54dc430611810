"""A browser for each module, and one studio without jobs."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from web.browsing import CHROMIUM, FLAGS, Site, studio


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """While it is there its event loop runs in this thread, where other modules' tests run loops of their own."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: install the package `chromium`")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with studio(tmp_path_factory.mktemp("studio"), "--no-worker") as running:
        yield running
