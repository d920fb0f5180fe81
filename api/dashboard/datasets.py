"""Parts that the list of data sets and the page of one share: names, results of the check, deletion."""

from collections.abc import Callable

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.receipts import show_receipt
from api.dashboard.texts import problem, tr
from api.dashboard.user import MOST, User
from difffit.models import Dataset


def path_of(dataset: Dataset) -> str:
    """Returns the address of a data set's page."""
    return f"/domains/{dataset.domain_id}/datasets/{dataset.id}"


def name_of(dataset: Dataset) -> str:
    return dataset.name or tr("Data set of {created_at}", created_at=words.moment(dataset.created_at))


def label_of(dataset: Dataset) -> str:
    """Returns the name of a data set with its size, for a choice among several."""
    return f"{dataset.name or words.moment(dataset.created_at)}, {words.several(dataset.images, 'image')}"


def train_button(dataset: Dataset) -> None:
    target = f"/domains/{dataset.domain_id}/training?dataset_id={dataset.id}"
    kit.link_button(tr("Train on it"), target, kind="primary")


def delete_button(user: User, dataset: Dataset, leave: Callable[[], None]) -> None:
    """Adds a button that deletes the data set and shows the receipt. `leave` is called when the receipt is closed."""

    async def delete() -> None:
        show_receipt(user, await user.api.datasets.delete(dataset.id), leave)

    kit.delete_button(name_of(dataset), tr("Delete the data set"), tr("Versions that were trained on it stay."), delete)


def reload_when_checked(user: User, dataset: Dataset) -> None:
    """Adds a line about the check of a data set, and reloads the page when the check has ended."""
    status_line = kit.muted(tr("Checking your images…")).props("role=status")

    async def look() -> None:
        status = (await user.api.datasets.get(dataset.id)).status
        if status != "validating":
            waiting.cancel()
            kit.ended(tr("Data set {status}", status=tr(status)))
            kit.reload()
        elif (await user.api.ready()).workers == 0:
            status_line.text = tr(kit.NO_WORKER)

    waiting = ui.timer(2.0, look)


def summary(dataset: Dataset) -> None:
    """Adds the numbers of the check, its error and its warnings."""
    facts = {
        tr("Images used"): words.count(dataset.images),
        tr("Classes"): words.count(len(dataset.classes)),
        tr("Files rejected"): words.count(dataset.report.rejected_count),
        tr("Files ignored"): words.count(dataset.report.ignored),
        tr("Size of the zip"): words.size(dataset.size_bytes),
    }
    kit.facts(facts)
    if dataset.error:
        with kit.box("problem"):
            kit.write(problem(dataset.error.code, dataset.error.detail))
            kit.original(dataset.error.code, dataset.error.detail)
    for warning in dataset.report.warnings:
        told = problem(warning.code, warning.detail)
        kit.muted(f"{warning.file}: {told}" if warning.file else told)
        kit.original(warning.code, warning.detail)


def rejected_files(user: User, dataset: Dataset) -> None:
    """Adds a collapsed list of the rejected files, if there are any, which is loaded when the user opens it."""
    count = dataset.report.rejected_count
    if not count:
        return

    async def show() -> None:
        files = [file async for file in user.api.datasets.rejected(dataset.id, MOST)]
        with details:
            rows = [(_long(rejected.file), _long(problem(rejected.code, rejected.detail))) for rejected in files]
            kit.table(tr("Rejected files"), (tr("File"), tr("Reason")), rows)
            if len(files) < count:
                kit.muted(tr("The first {shown} of {count:,}. The API lists all.", shown=len(files), count=count))

    with ui.element("details").classes("more") as details:
        opener = kit.write(tr("{files} rejected", files=words.several(count, "file was", "files were")), "summary")
    opener.on("click.once", show)


def _long(text: str) -> kit.Cell:
    return lambda: kit.write(text, "span", "long")
