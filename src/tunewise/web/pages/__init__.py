"""One module per page. A page asks use cases through its `Visit`, and draws what they give."""

from tunewise.web.frame import page
from tunewise.web.pages import home, sign_in


def add_pages() -> None:
    """Give every page its address."""
    page("/", "Home")(home.draw)
    page("/sign-in", "Sign in", is_open=True)(sign_in.draw)
