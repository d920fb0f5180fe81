"""Page that lists a tenant's domains, each with the latest image of its active version."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.domain import name_fields
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog
from api.dashboard.frame import frame, page
from api.dashboard.lists import filter_buttons, pager
from api.dashboard.texts import tr
from api.dashboard.tour import begin
from api.dashboard.user import TenantUser, User
from difffit.models import Domain

_PAGE = 24


@page("/domains")
async def domains(user: TenantUser, name: str = "", cursor: str = "") -> None:
    hint = tr("A domain is one image style, with its training images, versions and generated images.")
    with frame(user, tr("Domains"), section="Domains", hint=hint):
        listed = await user.api.domains.list(_PAGE, name_contains=name.strip() or None).page(cursor or None)
        is_new = not (listed.data or cursor or name)
        if user.may_write:
            with kit.box("row"):
                kit.button(tr("New domain"), lambda: _ask_for_domain(user), kind="primary")
                if is_new:
                    kit.button(tr("Try with sample data"), lambda: begin(user))
        if is_new:
            kit.empty(tr("No domains yet"), tr("Create one, then upload a folder of images for each class."))
        if name or cursor or listed.next_cursor:
            with kit.card():
                filter_buttons("/domains", name=kit.field(tr("Name contains"), name, most=NAME_LENGTH))
        if name and not listed.data:
            kit.empty(tr("No domain matches"), tr("Search for another part of the name."))
        with kit.box("tiles", "ul"):
            for domain in listed.data:
                _tile(domain)
        pager("domains", "/domains", listed.next_cursor, {"name": name})
        if user.may_write and not is_new:
            with kit.box("row"):
                kit.button(tr("First steps with sample data"), lambda: begin(user), kind="quiet")


def _tile(domain: Domain) -> None:
    with kit.box("tile", "li"), ui.link("", f"/domains/{domain.id}").classes("tile-link", remove="nicegui-link"):
        if domain.cover_url:
            kit.picture(domain.cover_url, "", "cover")
        else:
            with kit.box("cover blank"):
                kit.write(domain.name[:1].upper(), "span")
        kit.write(domain.name, "h2")
        kit.write(
            domain.description or tr("Created {created_at}", created_at=words.moment(domain.created_at)), "p", "small"
        )


def _ask_for_domain(user: User) -> None:
    async def make() -> None:
        form = Form(name=name, description=description)
        if not form.is_valid():
            return
        with form.showing_problems():
            domain = await user.api.domains.create(name.value, description.value)
            ui.navigate.to(f"/domains/{domain.id}")

    with form_dialog(tr("New domain"), tr("Create"), make):
        name, description = name_fields()
