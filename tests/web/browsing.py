"""A studio in a process of its own, and a browser that looks at it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from tunewise.jobs.platform import Platform, open_platform
from tunewise.settings import Settings, get_settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
READY_SECONDS = 60.0


class Site(NamedTuple):
    """A running `tunewise up`, and the state that it works on."""

    url: str
    platform: Platform
    process: subprocess.Popen[bytes]


@contextmanager
def studio(home: Path, *options: str, port: int = 0, **settings: str) -> Iterator[Site]:
    """`tunewise up` over a state below `home`, killed at the end. `settings`: more environment variables."""
    state = home / "state"
    port = port or free_port()
    environment = os.environ | {"TUNEWISE_STATE": str(state), "TUNEWISE_HOME": str(get_settings().home)} | settings
    log = home / "up.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tunewise.cli", "up", "--port", str(port), *options],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process, log)
        yield Site(url, open_platform(Settings(home=get_settings().home, state=state)), process)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it as a service manager does, and make it end where it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def look(
    browser: Browser, url: str, *, phone: bool = False, dark: bool = False, language: str = "en"
) -> Iterator[Page]:
    """A fresh browser profile that looks at `url`; an error in the page's own code fails the test."""
    context = browser.new_context(
        viewport=PHONE if phone else DESKTOP,  # type: ignore[arg-type]
        color_scheme="dark" if dark else "light",
        locale=language,
        reduced_motion="reduce",  # nothing is measured half faded in
        accept_downloads=True,
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: _refuse_elsewhere(request.url, url, faults))
    try:
        page.goto(url)
        page.wait_for_function("window.did_handshake === true")
        yield page
        assert not faults
    finally:
        context.close()


def serious_issues(page: Page) -> list[str]:
    """What axe-core finds on the page that hinders somebody seriously."""

    found = Axe().run(page).response["violations"]
    return [
        f"{issue['id']}: {[(node['html'][:120], node['failureSummary']) for node in issue['nodes']][:3]}"
        for issue in found
        if issue["impact"] in ("serious", "critical")
    ]


def is_cut(page: Page) -> bool:
    """Whether the page is wider than the window, so that a phone has to be scrolled sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1"))


def _refuse_elsewhere(asked: str, url: str, faults: list[str]) -> None:
    origin = "/".join(url.split("/")[:3])
    if not asked.startswith((origin, "data:", "blob:")):
        faults.append(f"the page asked {asked}")


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            httpx.get(f"{url}/readyz", timeout=5).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.05)
