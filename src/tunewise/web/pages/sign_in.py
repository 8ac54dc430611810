"""Signing in with an API key: a plain form, so that password stores know it."""

from tunewise.web.parts import markup
from tunewise.web.sessions import inner
from tunewise.web.visit import Visit
from tunewise.web.words import t


async def draw(visit: Visit) -> None:
    """The form, and why the last key was not taken."""
    asked = visit.request.query_params
    if "error" in asked:
        markup('<section class="tw-card tw-alert" role="alert"><p>{}</p></section>', t("This key is not known here."))
    markup(
        '<section class="tw-card"><form method="post" action="/sign-in/form">'
        '<input type="hidden" name="to" value="{to}">'
        '<p><label>{label}<br><input class="tw-field" type="password" name="key" autocomplete="current-password" '
        'required autofocus size="40"></label></p><p class="tw-quiet">{hint}</p>'
        '<button class="tw-plain">{action}</button></form></section>',
        to=inner(asked.get("to", "/")),
        label=t("API key"),
        hint=t("The server's operator makes one with: tunewise keys create"),
        action=t("Sign in"),
    )
