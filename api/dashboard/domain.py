"""Parts that all pages of a domain share: the header with links to the four pages (Images, Training, Versions,
Playground), and the edit and delete buttons."""

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from api.dashboard import kit
from api.dashboard.frame import frame, show_problem
from api.dashboard.user import User
from difffit import DiffFitError
from difffit.models import Domain

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


@contextmanager
def domain_frame(user: User, domain: Domain, step: str) -> Iterator[None]:
    with frame(user, domain.name, section="Domains", crumbs={"Domains": "/domains"}, hint=domain.description):
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
                    kit.button("Delete", lambda: _delete(user, domain), kind="quiet")
        yield


def _edit(user: User, domain: Domain) -> None:
    async def change() -> None:
        await user.api.domains.update(domain.id, name=name.value, description=description.value or "")
        ui.navigate.reload()

    with kit.dialog("Edit the domain") as asked:
        name = kit.field("Name", domain.name)
        description = kit.field("Description", domain.description, lines=2)
        with kit.box("row end"):
            kit.button("Cancel", asked.close)
            kit.button("Save", change, kind="primary")
    asked.open()


def _delete(user: User, domain: Domain) -> None:
    async def delete() -> None:
        await user.api.domains.delete(domain.id)
        ui.navigate.to("/domains")

    detail = "Its training images, versions and generated images are deleted too. This cannot be undone."
    kit.confirm(f"Delete {domain.name}?", detail, "Delete the domain", delete)
