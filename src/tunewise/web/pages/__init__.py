"""One module per page. A page asks use cases through its `Visit`, and draws what they give."""

from tunewise.web.frame import page
from tunewise.web.pages import (
    compare,
    data,
    evaluate,
    file,
    home,
    model,
    models,
    new_run,
    playground,
    run,
    runs,
    settings,
    sign_in,
)


def add_pages() -> None:
    """Give every page its address."""
    page("/", "Home")(home.draw)
    page("/data", "Data")(data.draw)
    page("/data/{file_id}", "File")(file.draw)
    page("/runs", "Runs")(runs.draw)
    page("/runs/new", "New run")(new_run.draw)
    page("/runs/{job_id}", "Run")(run.draw)
    page("/runs/{job_id}/evaluate", "Was it worth it?")(evaluate.draw)
    page("/compare", "Compare runs")(compare.draw)
    page("/playground", "Playground")(playground.draw)
    page("/models", "Models")(models.draw)
    page("/models/{name:path}", "Model")(model.draw)
    page("/settings", "Settings")(settings.draw)
    page("/sign-in", "Sign in", is_open=True)(sign_in.draw)
