"""Page that lists a tenant's domains, each with its latest generated image."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.frame import frame
from api.dashboard.user import TenantUser, User
from difffit.models import Domain


@ui.page("/domains")
async def domains(user: TenantUser, cursor: str = "") -> None:
    hint = "A domain is one image style, with its training images, versions and generated images."
    with frame(user, "Domains", section="Domains", hint=hint):
        page = await user.api.domains.list(24).page(cursor or None)
        if user.may_write:
            with kit.box("row"):
                kit.button("New domain", lambda: _ask_for_domain(user), kind="primary")
        if not page.data and not cursor:
            kit.empty("No domains yet", "Create one, then upload a folder of images for each class.")
        with kit.box("tiles", "ul"):
            for domain in page.data:
                _tile(domain)
        if page.next_cursor:
            kit.link_button("Older domains", f"/domains?cursor={page.next_cursor}")


def _tile(domain: Domain) -> None:
    with kit.box("tile", "li"), ui.link("", f"/domains/{domain.id}").classes("tile-link", remove="nicegui-link"):
        if domain.cover_url:
            kit.picture(domain.cover_url, "", "cover")
        else:
            with kit.box("cover blank"):
                kit.write(domain.name[:1].upper(), "span")
        kit.write(domain.name, "h2")
        kit.write(domain.description or f"Created {words.moment(domain.created_at)}", "p", "small")


def _ask_for_domain(user: User) -> None:
    async def make() -> None:
        domain = await user.api.domains.create(name.value, description.value)
        ui.navigate.to(f"/domains/{domain.id}")

    with kit.dialog("New domain") as asked:
        name = kit.field("Name", placeholder="Line drawings")
        name.props("autofocus")
        description = kit.field("Description", lines=2, hint="Free text. It does not affect the images.")
        with kit.box("row end"):
            kit.button("Cancel", asked.close)
            kit.button("Create", make, kind="primary")
    asked.open()
