"""Page of one data set: its images with their warnings, its versions, and an editor that makes new versions."""

from collections.abc import Sequence

from nicegui import ui

from api.dashboard import datasets, kit, words
from api.dashboard.domain import domain_frame, find
from api.dashboard.editor import Editor
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog, text_of
from api.dashboard.frame import page
from api.dashboard.lists import pager
from api.dashboard.texts import tr, tr_all
from api.dashboard.user import MOST, TenantUser, User
from difffit.models import Dataset

_SHOWN = 48
"""Number of images per page."""
_WARNINGS = {
    "": "All images",
    "near_duplicate": "Near-duplicates",
    "tiny": "Tiny images",
    "blank": "Blank images",
    "extreme_aspect": "Very long images",
    "colours_converted": "Images with converted colours",
}


@page("/domains/{id}/datasets/{dataset_id}")
async def dataset(
    user: TenantUser, id: str, dataset_id: str, class_id: str = "", warning: str = "", cursor: str = ""
) -> None:
    domain = await find(user, id)
    if domain is None:
        return
    with domain_frame(user, domain, "Images"):
        shown = await user.api.datasets.get(dataset_id)
        if shown.domain_id != domain.id:
            ui.navigate.to(datasets.path_of(shown))
            return
        _header(user, shown)
        if shown.status == "ready":
            await _contents(user, shown, class_id, warning, cursor)


def _header(user: User, dataset: Dataset) -> None:
    with kit.card() as card:
        with kit.box("row spread"):
            with kit.box("row"):
                kit.write(datasets.name_of(dataset), "h2")
                kit.badge(dataset.status)
            if dataset.status != "validating":
                with kit.box("row"):
                    _actions(user, dataset)
        if dataset.status == "validating":
            datasets.reload_when_checked(user, dataset)
        else:
            datasets.summary(dataset)
            datasets.rejected_files(user, dataset)
    card.props(f'data-status="{dataset.status}"')


def _actions(user: User, dataset: Dataset) -> None:
    def leave() -> None:
        ui.navigate.to(f"/domains/{dataset.domain_id}/images")

    if user.may_write:
        kit.button(tr("Rename"), lambda: _ask_for_name(user, dataset), kind="quiet")
        datasets.delete_button(user, dataset, leave)
    if dataset.status == "ready":
        kit.link_button(tr("Download"), f"/datasets/{dataset.id}/zip", kind="quiet").props("download")
    if dataset.status == "ready" and user.may_write:
        kit.button(tr("Copy to another domain"), lambda: _ask_for_domain(user, dataset), kind="quiet")
        datasets.train_button(dataset)


def _ask_for_name(user: User, dataset: Dataset) -> None:
    async def rename() -> None:
        form = Form(name=name)
        if not form.is_valid():
            return
        with form.showing_problems():
            await user.api.datasets.update(dataset.id, name=text_of(name))
            kit.reload()

    with form_dialog(tr("Rename the data set"), tr("Save"), rename):
        name = kit.field(tr("Name"), dataset.name or "", most=NAME_LENGTH).props("autofocus")


async def _ask_for_domain(user: User, dataset: Dataset) -> None:
    domains = [domain async for domain in user.api.domains.list(MOST)]
    names = {domain.id: domain.name for domain in domains if domain.id != dataset.domain_id}
    if not names:
        kit.refused(tr("No other domain"), tr("Create a domain first, then copy the data set to it."))
        return

    async def copy() -> None:
        form = Form(name=name)
        if not form.is_valid():
            return
        with form.showing_problems():
            copied = await user.api.datasets.copy(dataset.id, target.value, name=text_of(name))
            ui.navigate.to(datasets.path_of(copied))

    with form_dialog(tr("Copy to another domain"), tr("Copy"), copy):
        hint = tr("The copy is stored separately, so that each domain can be deleted.")
        target = kit.choice(tr("Domain"), names, next(iter(names)), hint=hint)
        name = kit.field(tr("Name of the copy"), dataset.name or "", most=NAME_LENGTH)


async def _contents(user: User, dataset: Dataset, class_id: str, warning: str, cursor: str) -> None:
    """Adds the images that match the filters, the unsaved changes, and the versions."""
    if class_id not in {str(label.id) for label in dataset.classes}:
        class_id = ""
    if warning not in _WARNINGS:
        warning = ""
    number = int(class_id) if class_id else None
    images = user.api.datasets.images(dataset.id, _SHOWN, class_id=number, warning=warning or None)
    listed = await images.page(cursor or None)
    editor = Editor(user, dataset, listed.data)
    hint = tr("Press an image to remove it. Changes make a new version; this one stays as it is.")
    with kit.card(tr("Images"), hint if editor.may_edit else ""):
        _filters(dataset, class_id, warning)
        if not listed.data:
            kit.muted(tr("No image matches."))
        editor.build()
        chosen = {"class_id": class_id, "warning": warning}
        pager(
            "images",
            datasets.path_of(dataset),
            listed.next_cursor,
            chosen,
            ("First {noun}", "Previous {noun}", "More {noun}"),
        )
    await _versions(user, dataset)
    editor.build_changes()


def _filters(dataset: Dataset, class_id: str, warning: str) -> None:
    """Adds the choices of a class and of a warning, which lead to the images that match."""
    classes = {"": tr("All classes, {images}", images=words.several(dataset.images, "image"))}
    classes |= {str(label.id): f"{label.name}, {words.several(label.images, 'image')}" for label in dataset.classes}
    with kit.box("fields"):
        chosen = kit.choice(tr("Class"), classes, class_id)
        only = kit.choice(tr("Show"), tr_all(_WARNINGS), warning)

    def show() -> None:
        ui.navigate.to(kit.with_query(datasets.path_of(dataset), {"class_id": chosen.value, "warning": only.value}))

    chosen.on_value_change(show)
    only.on_value_change(show)


async def _versions(user: User, dataset: Dataset) -> None:
    """Adds a table of the data sets of the domain that were edited from the same upload, if there are several."""
    listed = [each async for each in user.api.datasets.list(dataset.domain_id, MOST) if each.id != dataset.id]
    related = _related(dataset, [dataset, *listed])
    if len(related) == 1 and dataset.parent_id is None:
        return
    related.sort(key=lambda version: version.created_at, reverse=True)
    names = {version.id: datasets.name_of(version) for version in related}

    def row(version: Dataset) -> list[kit.Cell]:
        def name() -> None:
            if version.id == dataset.id:
                kit.write(tr("{name} (this one)", name=names[version.id]), "span")
            else:
                ui.link(names[version.id], datasets.path_of(version))

        parent = names.get(version.parent_id or "", tr("a deleted data set, or one of another domain"))
        origin = tr("an upload") if version.parent_id is None else parent
        return [name, words.moment(version.created_at), words.count(version.images), origin]

    with kit.card(tr("Versions"), tr("Data sets that were made from the same one.")):
        columns = (tr("Data set"), tr("Created"), tr("Images"), tr("Made from"))
        kit.table(tr("Versions of the data set, newest first"), columns, [row(version) for version in related])


def _related(dataset: Dataset, listed: Sequence[Dataset]) -> list[Dataset]:
    """Returns those of the listed data sets that have the same first ancestor as `dataset`, which may be a deleted data
    set or one of another domain."""
    parents = {each.id: each.parent_id for each in listed}

    def ancestor(id: str) -> str:
        while (parent := parents.get(id)) is not None:
            id = parent
        return id

    return [each for each in listed if ancestor(each.id) == ancestor(dataset.id)]
