"""A domain's data sets: uploading one, and what became of it."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.domain import domain_frame, find
from api.dashboard.uploads import Upload
from api.dashboard.user import TenantUser, User
from api.schemas.datasets import DatasetOut, RejectedFile
from api.schemas.domains import DomainOut


@ui.page("/domains/{id}/images")
async def images(user: TenantUser, id: str) -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Images"):
        found = await user.contract.list(f"/v1/domains/{id}/datasets", DatasetOut)
        if user.may_write:
            with kit.card("Upload images", "The service looks at every file, and tells which it can use."):
                Upload(id)
        if not found:
            kit.empty("No images yet", "Ten or twenty images a class are enough to begin with.")
        for dataset in found:
            _dataset(user, domain, dataset)


def _dataset(user: User, domain: DomainOut, dataset: DatasetOut) -> None:
    with kit.card() as card:
        with kit.box("row spread"):
            with kit.box("row"):
                kit.write(f"Data set of {words.moment(dataset.created_at)}", "h2")
                kit.badge(dataset.status)
            if dataset.status == "ready":
                kit.link_button("Train on it", f"/domains/{domain.id}/training?dataset_id={dataset.id}", kind="primary")
        if dataset.status == "validating":
            kit.muted("Every image is being decoded.").props("role=status")
            _reload_when_done(user, dataset.id)
        else:
            _report(user, dataset)
    card.props(f'data-status="{dataset.status}"')


def _reload_when_done(user: User, id: str) -> None:
    async def look() -> None:
        if (await user.contract.get(f"/v1/datasets/{id}", DatasetOut)).status != "validating":
            waiting.cancel()
            ui.navigate.reload()

    waiting = ui.timer(1.0, look)


def _report(user: User, dataset: DatasetOut) -> None:
    facts = {
        "Images used": words.count(dataset.images),
        "Classes": words.count(len(dataset.classes)),
        "Files refused": words.count(dataset.report.rejected_count),
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
            for one in dataset.classes:
                with kit.box("class", "li"):
                    with kit.box("row spread"):
                        kit.write(one.name, "h3")
                        kit.write(words.several(one.images, "image"), "span", "small")
                    if one.example_url:
                        kit.picture(one.example_url, f"The first images of {one.name}", "strip")
    if dataset.report.rejected_count:
        _rejected(user, dataset)


def _rejected(user: User, dataset: DatasetOut) -> None:
    """Names the files that were not used, as soon as somebody asks."""
    count = dataset.report.rejected_count

    async def show() -> None:
        found = await user.contract.list(f"/v1/datasets/{dataset.id}/report", RejectedFile)
        with details:
            kit.table(
                "Files that were not used", ("File", "Reason"), [(one.file, _reason(one.detail)) for one in found]
            )
            if len(found) < count:
                kit.muted(f"The first {len(found)} of {count:,}; the API lists all.")

    with ui.element("details").classes("more") as details:
        summary = kit.write(words.several(count, "file was", "files were") + " not used", "summary")
    summary.on("click.once", show)


def _reason(detail: str) -> kit.Cell:
    return lambda: kit.write(detail, "span", "long")
