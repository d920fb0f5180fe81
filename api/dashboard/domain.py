"""Parts that all pages of a domain share: the header with links to its pages (`STEPS`), the edit and delete
buttons, and the used storage."""

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from api.dashboard import kit
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog
from api.dashboard.frame import frame, load
from api.dashboard.storage import show_storage
from api.dashboard.texts import tr
from api.dashboard.tour import show_tour
from api.dashboard.user import MOST, User, or_none
from difffit.models import Adapter, Domain

_CRUMBS = {"Domains": "/domains"}
_DESCRIPTION_LENGTH = 2000
STEPS = {
    "Images": "images",
    "Training": "training",
    "Versions": "versions",
    "Playground": "playground",
    "Gallery": "gallery",
}


async def find(user: User, id: str) -> Domain | None:
    """Returns the domain with this id. If the API responds with an error, shows a page with the error and returns
    None."""
    return await load(user, user.api.domains.get(id), tr("Domain"), section="Domains", crumbs=_CRUMBS)


async def usable_versions(user: User, domain: Domain, *chosen_ids: str) -> dict[str, Adapter]:
    """Returns the domain's newest versions that can be used, by id, with the active one and the chosen ones even if
    they are older."""
    versions = {version.id: version async for version in user.api.adapters.list(domain.id, MOST, status="ready")}
    for id in filter(None, (domain.active_adapter_id, *chosen_ids)):
        version = versions.get(id) or await or_none(user.api.adapters.get(id))
        if version is not None and version.domain_id == domain.id and version.status == "ready":
            versions[id] = version
    return versions


@contextmanager
def domain_frame(user: User, domain: Domain, step: str) -> Iterator[None]:
    tab = f"{tr(step)} · {domain.name}"
    with frame(user, domain.name, section="Domains", crumbs=_CRUMBS, hint=domain.description, tab=tab):
        with kit.box("row spread"):
            with kit.box("steps", "nav") as navigation:
                navigation.props["aria-label"] = tr("Steps of the domain")
                for name, path in STEPS.items():
                    link = ui.link(tr(name), f"/domains/{domain.id}/{path}").classes("step", remove="nicegui-link")
                    if name == step:
                        link.props("aria-current=page")
            if user.may_write:
                with kit.box("row"):
                    kit.button(tr("Edit"), lambda: _edit(user, domain), kind="quiet")
                    _delete_button(user, domain)
        kit.in_background(show_storage(user, ui.element("div").classes("storage")))
        show_tour(user, domain)
        yield


def _edit(user: User, domain: Domain) -> None:
    async def change() -> None:
        form = Form(name=name, description=description)
        if not form.is_valid():
            return
        with form.showing_problems():
            await user.api.domains.update(domain.id, name=name.value, description=description.value or "")
            kit.reload()

    with form_dialog(tr("Edit the domain"), tr("Save"), change):
        name, description = name_fields(domain.name, domain.description)


def name_fields(name: str = "", description: str = "") -> tuple[ui.input | ui.textarea, ui.input | ui.textarea]:
    """Adds the fields for a domain's name and description."""
    named = kit.field(tr("Name"), name, placeholder=tr("Line drawings"), needed=tr("Enter a name."), most=NAME_LENGTH)
    hint = tr("A note for people; it does not affect the images.")
    described = kit.field(tr("Description"), description, lines=2, hint=hint, most=_DESCRIPTION_LENGTH)
    return named.props("autofocus"), described


def _delete_button(user: User, domain: Domain) -> None:
    async def delete() -> None:
        await user.api.domains.delete(domain.id)
        ui.navigate.to("/domains")

    detail = tr("Its training images, versions and generated images are deleted too.")
    kit.delete_button(domain.name, tr("Delete the domain"), detail, delete)
