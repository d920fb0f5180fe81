"""Page of a domain's data sets, to upload images and see the results of their checks."""

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from api.dashboard import kit, words
from api.dashboard.domain import domain_frame, find
from api.dashboard.frame import page
from api.dashboard.uploads import Upload
from api.dashboard.user import MOST, TenantUser, User
from difffit.models import Dataset, Domain


@page("/domains/{id}/images")
async def images(user: TenantUser, id: str) -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Images"):
        datasets = [dataset async for dataset in user.api.datasets.list(id, MOST)]
        if user.may_write:
            with kit.card("Upload images", "The service checks every file and lists those that it rejects."):
                Upload(id)
        if not datasets:
            kit.empty("No images yet", "Ten to twenty images per class are enough to start.")
        for dataset in datasets:
            _dataset(user, domain, dataset)


def _dataset(user: User, domain: Domain, dataset: Dataset) -> None:
    with kit.card() as card:
        with kit.box("row spread"):
            with kit.box("row"):
                kit.write(_name(dataset), "h2")
                kit.badge(dataset.status)
            if dataset.status != "validating" and user.may_write:
                with kit.box("row"):
                    _delete_button(user, dataset)
                    if dataset.status == "ready":
                        target = f"/domains/{domain.id}/training?dataset_id={dataset.id}"
                        kit.link_button("Train on it", target, kind="primary")
        if dataset.status == "validating":
            status_line = kit.muted("Checking your images…").props("role=status")
            _reload_when_done(user, dataset.id, status_line)
        else:
            _report(user, dataset)
    card.props(f'data-status="{dataset.status}"')


def _name(dataset: Dataset) -> str:
    return dataset.name or f"Data set of {words.moment(dataset.created_at)}"


def _delete_button(user: User, dataset: Dataset) -> None:
    async def delete() -> None:
        await user.api.datasets.delete(dataset.id)
        kit.reload()

    kit.delete_button(_name(dataset), "Delete the data set", "Versions that were trained on it stay.", delete)


def _reload_when_done(user: User, id: str, status_line: TextElement) -> None:
    async def look() -> None:
        status = (await user.api.datasets.get(id)).status
        if status != "validating":
            waiting.cancel()
            kit.ended(f"Data set {status}")
            kit.reload()
        elif (await user.api.ready()).workers == 0:
            status_line.text = kit.NO_WORKER

    waiting = ui.timer(2.0, look)


def _report(user: User, dataset: Dataset) -> None:
    facts = {
        "Images used": words.count(dataset.images),
        "Classes": words.count(len(dataset.classes)),
        "Files rejected": words.count(dataset.report.rejected_count),
        "Files ignored": words.count(dataset.report.ignored),
        "Size of the zip": words.size(dataset.size_bytes),
    }
    kit.facts(facts)
    if dataset.error:
        with kit.box("problem"):
            kit.write(dataset.error.detail, "p")
    for warning in dataset.report.warnings:
        kit.muted(f"{warning.file}: {warning.detail}" if warning.file else warning.detail)
    if dataset.classes:
        with kit.box("classes", "ul"):
            for label in dataset.classes:
                with kit.box("class", "li"):
                    with kit.box("row spread"):
                        kit.write(label.name, "h3")
                        kit.write(words.several(label.images, "image"), "span", "small")
                    if label.example_url:
                        kit.picture(label.example_url, f"The first images of {label.name}", "strip")
    if dataset.report.rejected_count:
        _rejected(user, dataset)


def _rejected(user: User, dataset: Dataset) -> None:
    """Adds a collapsed list of the rejected files, which is loaded when the user opens it."""
    count = dataset.report.rejected_count

    async def show() -> None:
        files = [file async for file in user.api.datasets.rejected(dataset.id, MOST)]
        with details:
            rows = [(_long(rejected.file), _long(rejected.detail)) for rejected in files]
            kit.table("Rejected files", ("File", "Reason"), rows)
            if len(files) < count:
                kit.muted(f"The first {len(files)} of {count:,}. The API lists all.")

    with ui.element("details").classes("more") as details:
        summary = kit.write(words.several(count, "file was", "files were") + " rejected", "summary")
    summary.on("click.once", show)


def _long(text: str) -> kit.Cell:
    return lambda: kit.write(text, "span", "long")
