"""The evaluation of a run that has its model already: how it is to be judged, and go."""

from nicegui import ui

from tunewise.errors import RequestError
from tunewise.jobs import evaluations, files, fine_tuning
from tunewise.web.judging import Judging
from tunewise.web.pages.new_run import FILES
from tunewise.web.parts import button, card, link, markup
from tunewise.web.states import name_of
from tunewise.web.visit import Visit
from tunewise.web.words import t


async def draw(visit: Visit) -> None:
    """The form."""
    job = await visit.ask(fine_tuning.retrieve, visit.part("job_id"))
    known = (await visit.ask(files.list_files, purpose="fine-tune", after=None, limit=FILES, order="desc")).items
    names = {file.id: file.filename for file in known}
    markup("<p>{}</p>", link(f"/runs/{job.id}", t("Back to {name}", name=name_of(job))))

    async def changed() -> None:
        start.set_enabled(bool(judging.test.value))

    async def begin() -> None:
        asked = judging.evaluation()
        if asked is None:
            raise RequestError("missing_required_parameter", t("Choose test rows first."), param="test_file")
        await visit.ask(evaluations.attach, job.id, asked)
        ui.navigate.to(f"/runs/{job.id}")

    judging = Judging(visit, names, lambda: job.request.training_file, changed)
    with card(t("Data")):
        judging.draw_test("")
    judging.draw()
    with ui.element("div").classes("tw-actions"):
        start = button(t("Find out"), begin, kind="first")
    await judging.look_at_test()
