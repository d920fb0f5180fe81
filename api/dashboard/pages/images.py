"""Page of a domain's data sets, to upload images and see the results of their checks."""

from nicegui import ui

from api.dashboard import datasets, kit, words
from api.dashboard.domain import domain_frame, find
from api.dashboard.drafts import Draft
from api.dashboard.frame import page
from api.dashboard.imports import import_button
from api.dashboard.texts import tr
from api.dashboard.uploads import Upload
from api.dashboard.user import MOST, TenantUser, User
from difffit.models import Dataset


@page("/domains/{id}/images")
async def images(user: TenantUser, id: str) -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Images"):
        listed = [dataset async for dataset in user.api.datasets.list(id, MOST)]
        if user.may_write:
            with kit.card(tr("Upload images"), tr("The service checks every file and lists those that it rejects.")):
                Upload(id)
                import_button(user, id)
        if not listed:
            kit.empty(tr("No images yet"), tr("Ten to twenty images per class are enough to start."))
        for dataset in listed:
            _dataset(user, dataset)


def _dataset(user: User, dataset: Dataset) -> None:
    with kit.card() as card:
        with kit.box("row spread"):
            with kit.box("row"):
                with kit.box("", "h2"):
                    ui.link(datasets.name_of(dataset), datasets.path_of(dataset))
                kit.badge(dataset.status)
                if not user.session.drafts.get(dataset.id, Draft()).is_empty:
                    kit.badge("unsaved changes")
            if dataset.status != "validating" and user.may_write:
                with kit.box("row"):
                    datasets.delete_button(user, dataset, kit.reload)
                    if dataset.status == "ready":
                        datasets.train_button(dataset)
        if dataset.status == "validating":
            datasets.reload_when_checked(user, dataset)
        else:
            datasets.summary(dataset)
            _classes(dataset)
            datasets.rejected_files(user, dataset)
    card.props(f'data-status="{dataset.status}"')


def _classes(dataset: Dataset) -> None:
    if not dataset.classes:
        return
    with kit.box("classes", "ul"):
        for label in dataset.classes:
            with kit.box("class", "li"):
                with kit.box("row spread"):
                    kit.write(label.name, "h3")
                    kit.write(words.several(label.images, "image"), "span", "small")
                if label.example_url:
                    kit.picture(label.example_url, tr("The first images of {name}", name=label.name), "strip")
