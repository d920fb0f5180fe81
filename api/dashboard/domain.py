"""Parts that all pages of a domain share: the header with links to the four pages (Images, Training, Versions,
Playground), and the edit and delete buttons."""

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from api.dashboard import kit
from api.dashboard.forms import Form, form_dialog
from api.dashboard.frame import frame, show_problem
from api.dashboard.user import MOST, User
from difffit import DiffFitError
from difffit.errors import NotFound
from difffit.models import Adapter, Domain

_NAME_LENGTH, _DESCRIPTION_LENGTH = 200, 2000
STEPS = {"Images": "images", "Training": "training", "Versions": "versions", "Playground": "playground"}


async def find(user: User, id: str) -> Domain | None:
    """Returns the domain with this id. If the API responds with an error, shows a page with the error and returns
    None."""
    try:
        return await user.api.domains.get(id)
    except DiffFitError as error:
        with frame(user, "Domain", section="Domains", crumbs={"Domains": "/domains"}):
            show_problem(error)
        return None


async def usable_versions(user: User, domain: Domain, chosen_id: str) -> dict[str, Adapter]:
    """Returns the domain's newest versions that can be used, by id, with the active one and the chosen one even if they
    are older."""
    newest = [version async for version in user.api.adapters.list(domain.id, MOST, status="ready")]
    versions = {version.id: version for version in newest}
    for id in filter(None, (domain.active_adapter_id, chosen_id)):
        if id not in versions:
            try:
                version = await user.api.adapters.get(id)
            except NotFound:
                continue
            if version.domain_id == domain.id and version.status == "ready":
                versions[id] = version
    return versions


@contextmanager
def domain_frame(user: User, domain: Domain, step: str) -> Iterator[None]:
    crumbs, tab = {"Domains": "/domains"}, f"{step} · {domain.name}"
    with frame(user, domain.name, section="Domains", crumbs=crumbs, hint=domain.description, tab=tab):
        with kit.box("row spread"):
            with kit.box("steps", "nav") as navigation:
                navigation.props('aria-label="Steps of the domain"')
                for name, path in STEPS.items():
                    link = ui.link(name, f"/domains/{domain.id}/{path}").classes("step", remove="nicegui-link")
                    if name == step:
                        link.props("aria-current=page")
            if user.may_write:
                with kit.box("row"):
                    kit.button("Edit", lambda: _edit(user, domain), kind="quiet")
                    _delete_button(user, domain)
        yield


def _edit(user: User, domain: Domain) -> None:
    async def change() -> None:
        form = Form(name=name, description=description)
        if not form.is_valid():
            return
        with form.showing_problems():
            await user.api.domains.update(domain.id, name=name.value, description=description.value or "")
            kit.reload()

    with form_dialog("Edit the domain", "Save", change):
        name, description = name_fields(domain.name, domain.description)


def name_fields(name: str = "", description: str = "") -> tuple[ui.input | ui.textarea, ui.input | ui.textarea]:
    """Adds the fields for a domain's name and description."""
    named = kit.field("Name", name, placeholder="Line drawings", needed="Enter a name.", most=_NAME_LENGTH)
    hint = "A note for people; it does not affect the images."
    described = kit.field("Description", description, lines=2, hint=hint, most=_DESCRIPTION_LENGTH)
    return named.props("autofocus"), described


def _delete_button(user: User, domain: Domain) -> None:
    async def delete() -> None:
        await user.api.domains.delete(domain.id)
        ui.navigate.to("/domains")

    detail = "Its training images, versions and generated images are deleted too."
    kit.delete_button(domain.name, "Delete the domain", detail, delete)
