"""How soon a page of the studio can be used, with 1,000 runs in the list.

    python benchmarks/studio.py [--runs 1000] [--rounds 5]

`tunewise up` is started over a database with that many runs, each with a few events, and looked at with a real
Chromium. For each page, `interactive`: seconds from the navigation until what it shows is there and its socket is
connected, so that clicks are answered; first with an empty browser cache, then with a warm one (median of the rounds).
`static` is the same browser's time for a page of the same server that holds nothing but text (/healthz), which is what
the machine and the browser alone take. The last line is one JSON object. Goal: under 1.5 s on loopback.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import BrowserContext, Page, sync_playwright

from api import fill, server, up_command
from tunewise.web.frame import PLACES

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
CONNECTED = "window.did_handshake === true"


def main() -> None:
    """Measure every page, and print it as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        job_id = fill(Path(name), options.runs, 10 * options.runs)
        with server(up_command(), Path(name)) as (_, url):
            # The search looks through every run and finds one.
            pages = [place.path for place in PLACES] + [f"/runs/{job_id}", f"/runs?q={job_id[-12:]}"]
            sides = measure(url, pages, options.rounds)
    slowest = max(side["warm"] for side in sides.values())
    ratio = round(slowest / sides["/healthz"]["warm"], 1)
    print(json.dumps({"name": "studio", "ratio": ratio, "runs": options.runs, "sides": sides}))


def measure(base_url: str, pages: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds by page, cold and warm."""
    sides = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        browser.new_page().goto(f"{base_url}/")  # the browser's own start, and the studio's first page, are not counted
        for path in ["/healthz", *pages]:
            cold = []
            for _ in range(rounds):
                context = browser.new_context()
                cold.append(interactive(context, base_url + path))
                context.close()
            context = browser.new_context()
            interactive(context, base_url + path)
            warm = [interactive(context, base_url + path) for _ in range(rounds)]
            sides[path] = {"cold": round(statistics.median(cold), 2), "warm": round(statistics.median(warm), 2)}
        browser.close()
    return sides


def interactive(context: BrowserContext, url: str) -> float:
    """Seconds until the page can be used."""
    page: Page = context.new_page()
    started = time.monotonic()
    page.goto(url, wait_until="commit")
    if url.endswith("/healthz"):
        page.wait_for_load_state()
    else:
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_function(CONNECTED)
    taken = time.monotonic() - started
    page.close()
    return taken


if __name__ == "__main__":
    main()
