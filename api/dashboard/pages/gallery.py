"""Pages of generated images, of a domain or of all domains: find, mark, label, download and delete them."""

from collections.abc import Sequence
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import RedirectResponse
from nicegui import ui

from api.dashboard import downloads, kit, words
from api.dashboard.domain import domain_frame, find
from api.dashboard.forms import Form, form_dialog
from api.dashboard.frame import frame, page
from api.dashboard.image_filters import Filters, filter_fields, selected
from api.dashboard.lists import pager
from api.dashboard.texts import tr
from api.dashboard.user import MOST, TenantUser, User
from api.dashboard.viewer import Viewer
from difffit.models import StoredImage

_PAGE = 24
_LABEL_LENGTH = 200


@page("/gallery")
async def gallery(user: TenantUser, request: Request, filters: Filters, cursor: str = "") -> RedirectResponse | None:
    if domain_id := filters.pop("domain_id", ""):
        path = kit.with_query(f"/domains/{quote(domain_id, safe='')}/gallery", filters)
        return RedirectResponse(f"{request.scope['root_path']}{path}", 303)
    with frame(user, tr("Gallery"), section="Gallery", hint=tr("Generated images of all your domains.")):
        domains = {domain.id: domain.name async for domain in user.api.domains.list(MOST)}
        await _show(user, request, filters, cursor, None, domains)
    return None


@page("/domains/{id}/gallery")
async def domain_gallery(user: TenantUser, request: Request, id: str, filters: Filters, cursor: str = "") -> None:
    domain = await find(user, id)
    if domain is None:
        return
    filters.pop("domain_id", "")
    with domain_frame(user, domain, "Gallery"):
        await _show(user, request, filters, cursor, id, None)


async def _show(
    user: User,
    request: Request,
    filters: dict[str, str],
    cursor: str,
    domain_id: str | None,
    domains: dict[str, str] | None,
) -> None:
    path = "/gallery" if domain_id is None else f"/domains/{domain_id}/gallery"
    adapters = [adapter async for adapter in user.api.adapters.list(domain_id, MOST)]
    with kit.card():
        filter_fields(path, filters, adapters, domains)
        if domain_id is not None:
            ui.link(tr("Images of all domains"), "/gallery")
    listed = await user.api.images.list(domain_id, _PAGE, **selected(filters, request)).page(cursor or None)
    if not listed.data and filters:
        kit.empty(tr("No image matches"), tr("Change the filters, or show all images."))
    elif not listed.data:
        kit.empty(tr("No images yet"), tr("Images that you generate appear here."))
    else:
        everything = downloads.address({**filters, "domain_id": domain_id or ""})
        _Grid(user, listed.data, domains or {}).build(everything)
    pager("images", path, listed.next_cursor, filters)


class _Grid:
    """Images of one page, with the selection of some of them. `domains` has the names to show, by id."""

    def __init__(self, user: User, images: Sequence[StoredImage], domains: dict[str, str]) -> None:
        self.user, self.domains = user, domains
        self.images = {image.id: image for image in images}
        self.tiles: dict[str, _Tile] = {}

    def build(self, everything: str) -> None:
        """Adds the images, with the actions on the selected ones above them. `everything` is the address of a zip of
        all images that match the filters."""
        with kit.box("row spread"):
            with kit.box("row"):
                self.all = kit.button(tr("Select all"), self._select_all, kind="quiet")
                self.line = kit.muted("").props("role=status")
                with kit.box("row") as self.actions:
                    download = kit.button(tr("Download"), self._download)
                    download.props["aria-label"] = tr("Download the selected images")
                    if self.user.may_write:
                        delete = kit.button(tr("Delete"), self._ask_to_delete, kind="danger")
                        delete.props["aria-label"] = tr("Delete the selected images")
            zipped = kit.link_button(tr("Download all as zip"), everything).props("download=images.zip")
            zipped.props["title"] = tr("The newest {count:,} images that match", count=downloads.MOST_IMAGES)
        with kit.box("gallery", "ul") as self.list:
            for image in self.images.values():
                self.tiles[image.id] = _Tile(self, image)
        self.count()

    def count(self) -> None:
        """Shows how many images are selected, and the actions on them."""
        selected = len(self._selected())
        self.line.text = tr("{selected} of {count} selected", selected=selected, count=len(self.tiles))
        self.all.text = tr("Select none") if selected == len(self.tiles) else tr("Select all")
        self.actions.visible = selected > 0

    async def view(self, id: str) -> None:
        ids = list(self.tiles)
        await Viewer(self.user, ids).open(ids.index(id))

    def _selected(self) -> list[str]:
        return [id for id, tile in self.tiles.items() if tile.checkbox.value]

    def _select_all(self) -> None:
        chosen = len(self._selected()) < len(self.tiles)  # otherwise all are selected already
        for tile in self.tiles.values():
            tile.checkbox.value = chosen

    def _download(self) -> None:
        ui.download.from_url(downloads.address({}, self._selected()))

    def _ask_to_delete(self) -> None:
        ids = self._selected()
        images = words.several(len(ids), "image")

        async def delete() -> None:
            deleted = await self.user.api.images.delete(ids)
            size = sum(self.images[id].size_bytes for id in deleted)
            for id in ids:
                self.tiles.pop(id).element.delete()
            self.count()
            kit.said(
                tr("{images} deleted, {size}.", images=words.several(len(deleted), "image"), size=words.size(size))
            )
            if not self.tiles:
                kit.reload()

        detail = tr("Links to them stop working. This cannot be undone.")
        kit.confirm(tr("Delete {images}?", images=images), detail, tr("Delete {images}", images=images), delete)


class _Tile:
    """An image with its checkbox, its mark as a favourite and its label."""

    def __init__(self, grid: _Grid, image: StoredImage) -> None:
        self.grid, self.user, self.image = grid, grid.user, image
        self.name = tr("{class_name}, seed {seed}", class_name=image.class_name, seed=image.seed)
        with kit.box("gallery-tile", "li") as self.element:
            with kit.box("row spread no-wrap"):
                self.checkbox = ui.checkbox(on_change=grid.count)
                self.checkbox.props["aria-label"] = tr("Select {name}", name=self.name)
                if self.user.may_write:
                    self.star = kit.button("", self._toggle, kind="quiet", icon="star_border")
                elif image.favourite:
                    kit.badge("Favourite")
            with ui.element("button").classes("shot") as opener:
                opener.props("type=button")
                opener.props["aria-label"] = tr("Details of {name}", name=self.name)
                kit.picture(image.url, "")
            opener.on("click", lambda: grid.view(image.id))
            kit.write(self.name, "p", "small")
            if image.domain_id in grid.domains:
                ui.link(grid.domains[image.domain_id], f"/domains/{image.domain_id}/gallery").classes("small")
            if self.user.may_write:
                self.label = kit.button("", self._ask_for_label, kind="quiet")
            elif image.label:
                kit.write(image.label, "p")
        self._show_marks()

    async def _toggle(self) -> None:
        self.image = await self.user.api.images.update(self.image.id, favourite=not self.image.favourite)
        self._show_marks()

    def _ask_for_label(self) -> None:
        async def save() -> None:
            form = Form(label=label)
            if not form.is_valid():
                return
            with form.showing_problems():
                self.image = await self.user.api.images.update(self.image.id, label=(label.value or "").strip())
                asked.close()
                self._show_marks()

        with form_dialog(tr("Label of {name}", name=self.name), tr("Save"), save) as asked:
            hint = tr("A text to find the image by. Leave it empty to remove it.")
            label = kit.field(tr("Label"), self.image.label or "", most=_LABEL_LENGTH, hint=hint).props("autofocus")

    def _show_marks(self) -> None:
        if not self.user.may_write:
            return
        is_favourite = self.image.favourite
        self.star.props(f"icon={'star' if is_favourite else 'star_border'} aria-pressed={str(is_favourite).lower()}")
        self.star.props["aria-label"] = tr("Favourite: {name}", name=self.name)
        self.label.text = self.image.label or tr("Add label")
        self.label.props["aria-label"] = tr("{text}, label of {name}", text=self.label.text, name=self.name)
