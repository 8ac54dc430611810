from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tunewise.jobs.access import create_key, revoke_key
from tunewise.web.frame import PLACES
from tunewise.web.mount import PATHS
from web.browsing import Site, is_cut, look, serious_issues, studio


@pytest.mark.parametrize("phone", [False, True], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_is_accessible_and_fits_the_window(browser: Browser, site: Site, phone: bool, dark: bool) -> None:
    for place in PLACES:
        with look(browser, site.url + place.path, phone=phone, dark=dark) as page:
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            assert serious_issues(page) == [], place.path
            assert not is_cut(page), place.path


def test_a_page_can_be_reached_and_passed_with_the_keyboard(browser: Browser, site: Site) -> None:
    with look(browser, site.url) as page:
        page.keyboard.press("Tab")
        expect(page.get_by_text("Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator(".tw-main")).to_be_focused()
        assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1


def test_the_browser_s_language_is_spoken_and_another_can_be_chosen(browser: Browser, site: Site) -> None:
    with look(browser, site.url, language="ja-JP") as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("ホーム")
        assert page.locator("html").get_attribute("lang") == "ja"
        page.locator("select[name=language]").select_option("en")
        expect(page.get_by_role("heading", level=1)).to_have_text("Home")
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("Home")


def test_a_chosen_theme_stays(browser: Browser, site: Site) -> None:
    with look(browser, site.url) as page:
        page.locator("select[name=theme]").select_option("dark")
        expect(page.locator("body.body--dark")).to_be_visible()
        page.reload()
        expect(page.locator("body.body--dark")).to_be_visible()


def test_a_key_is_asked_for_once_there_is_one_and_a_revoked_key_ends_the_visit(
    browser: Browser, tmp_path: Path
) -> None:
    with studio(tmp_path, "--no-worker") as site:
        made = create_key(site.platform, role="member", organization=None, project="mine")
        with look(browser, site.url) as page:
            expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
            page.get_by_label("API key").fill("tw-wrong")
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("alert")).to_have_text("This key is not known here.")
            page.get_by_label("API key").fill(made.secret)
            page.get_by_role("button", name="Sign in").click()
            expect(page).to_have_url(f"{site.url}/")
            cookies = {str(cookie["name"]): cookie for cookie in page.context.cookies()}
            cookie = cookies["tunewise_studio"]
            assert cookie["httpOnly"]
            assert cookie["sameSite"] == "Lax"
            assert made.secret not in str(cookie["value"])
            revoke_key(site.platform, made.key.id)
            page.goto(site.url)
            expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def test_a_form_or_a_socket_of_another_origin_is_refused(site: Site) -> None:
    foreign = {"origin": "https://elsewhere.example"}
    assert httpx.post(f"{site.url}/settings/look", data={"theme": "dark"}, headers=foreign).status_code == 403
    socket = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    path = f"{site.url}/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    answer = httpx.get(path, headers=foreign | socket | {"sec-websocket-key": "x3JJHMbDL1EzLkh9GBhXDw=="})
    assert answer.status_code == 403


def test_a_link_leads_nobody_elsewhere_after_signing_in(site: Site) -> None:
    for target in ("https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere.example"):
        answer = httpx.post(f"{site.url}/settings/look", data={"to": target})
        assert answer.headers["location"] == "/"


def test_a_page_that_is_not_there_says_so(browser: Browser, site: Site) -> None:
    with look(browser, f"{site.url}/runs/nothing/of/this") as page:
        expect(page.get_by_role("heading", level=1)).to_have_text("Not found")
        assert serious_issues(page) == []


def test_unknown_paths_are_answered_as_the_api_does(site: Site) -> None:
    answer = httpx.get(f"{site.url}/v1/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"
    assert all(PATHS.fullmatch(place.path) for place in PLACES)
