"""Editor of a data set's images and classes. It collects changes, shows them, and saves them as one new version."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from api.dashboard import datasets, kit, words
from api.dashboard.drafts import Change, Draft
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog, text_of
from api.dashboard.texts import problem, tr
from api.dashboard.user import MOST, User
from difffit.models import Dataset, DatasetImage

_CLASS_NAME_LENGTH = 100
_BROWSER_SECONDS = 10


@dataclass(frozen=True)
class _Tile:
    image: DatasetImage
    element: ui.element
    button: ui.element
    state: TextElement


class Editor:
    """Some images of a data set, with controls that change the data set's draft."""

    def __init__(self, user: User, dataset: Dataset, images: Sequence[DatasetImage]) -> None:
        self.user, self.dataset, self.images = user, dataset, images
        self.counts = {label.name: label.images for label in dataset.classes}
        self.draft = user.session.drafts.get(dataset.id, Draft())
        self.may_edit = user.may_write and dataset.status == "ready"
        self.tiles: list[_Tile] = []
        self.notes: dict[str, TextElement] = {}

    def build(self) -> None:
        """Adds the images, by class."""
        if self.may_edit:
            with kit.box("row"):
                kit.button(tr("Add images of another data set"), self._ask_for_dataset)
                if self.images:
                    kit.button(tr("Remove all images on this page"), self._remove_all, kind="quiet")
        for name, images in groupby(sorted(self.images, key=_class_of), _class_of):
            self._class(name, list(images))

    def build_changes(self) -> None:
        """Adds the line with the number of unsaved changes, and the buttons to save and to discard them."""
        if not self.may_edit:
            return
        with kit.box("pending row spread") as self.bar:
            self.line = kit.write("").props("role=status")
            with kit.box("row") as self.actions:
                discard = kit.button(tr("Discard"), self._ask_to_discard, kind="quiet")
                discard.props["aria-label"] = tr("Discard the changes")
                kit.button(tr("Review and save"), self._review, kind="primary")
        self._update()
        if self.dataset.id not in self.user.session.drafts:
            ui.timer(0, self._restore, once=True)

    def show(self) -> None:
        """Updates the page to the changed draft, and keeps the draft in the session and in the browser's tab."""
        self.user.session.drafts[self.dataset.id] = self.draft
        ui.run_javascript(f"difffit.keepDraft({json.dumps(self.dataset.id)}, {json.dumps(self.draft.to_text())})")
        self._update()

    async def _restore(self) -> None:
        """Takes over the draft that the browser's tab has kept from an earlier session."""
        with suppress(TimeoutError):  # of a browser that does not answer
            kept = await ui.run_javascript(f"difffit.draft({json.dumps(self.dataset.id)})", timeout=_BROWSER_SECONDS)
            if kept and self.draft.is_empty:
                self.draft = Draft.from_text(kept)
                self.show()

    def _update(self) -> None:
        for tile in self.tiles:
            is_dropped = tile.image.class_name in self.draft.dropped
            is_removed = is_dropped or tile.image.number in self.draft.removed
            tile.button.props["disabled"] = is_dropped
            tile.button.props["aria-pressed"] = "true" if is_removed else "false"
            tile.state.text = tr("Will be removed") if is_removed else ""
            _mark(tile.element, "removed", when=is_removed)
        for name, note in self.notes.items():
            note.text = self.draft.note(name)
        count = len(self.draft.changes(self.counts))
        self.line.text = f"{words.several(count, 'unsaved change')}." if count else tr("No unsaved changes.")
        self.actions.visible = count > 0
        _mark(self.bar, "some", when=count > 0)

    def _class(self, name: str, images: Sequence[DatasetImage]) -> None:
        with kit.box("row spread"):
            with kit.box("row"):
                kit.write(name, "h3")
                kit.write(words.several(self.counts[name], "image"), "span", "small")
                self.notes[name] = kit.write("", "span", "note")
            if self.may_edit:
                with kit.box("row"):
                    rename = kit.button(tr("Rename or merge"), lambda: self._ask_for_name(name), kind="quiet")
                    rename.props["aria-label"] = tr("Rename or merge {name}", name=name)
                    remove = kit.button(tr("Remove class"), lambda: self._drop(name), kind="quiet")
                    remove.props["aria-label"] = tr("Remove class {name}", name=name)
        with kit.box("training-images", "ul"):
            for image in images:
                self._tile(image)

    def _tile(self, image: DatasetImage) -> None:
        with kit.box("training-image", "li") as element:
            with kit.box("shot", "button" if self.may_edit else "div") as button:
                if self.may_edit:
                    button.props("type=button")
                    button.props["aria-label"] = tr("Remove {file}", file=image.file)
                    button.on("click", lambda: self._toggle(image))
                _thumbnail(image, "" if self.may_edit else image.file)
            kit.write(PurePosixPath(image.file).name, "span", "small")
            if image.width and image.height and image.size_bytes:
                kit.write(f"{image.width} × {image.height}, {words.size(image.size_bytes)}", "span", "small")
            for warning in image.warnings:
                kit.write(problem(warning.code, warning.detail), "span", "warning")
            self.tiles.append(_Tile(image, element, button, kit.write("", "span", "note")))

    def _toggle(self, image: DatasetImage) -> None:
        self.draft.toggle(image.number, image.class_name)
        self.show()

    def _remove_all(self) -> None:
        kept = [image for image in self.images if image.class_name not in self.draft.dropped]
        self.draft.removed |= {image.number: image.class_name for image in kept}
        self.show()

    def _drop(self, name: str) -> None:
        self.draft.drop(name)
        self.show()

    def _ask_for_name(self, old: str) -> None:
        def rename() -> None:
            if Form(name=name).is_valid():
                self.draft.rename(old, text_of(name) or old)
                asked.close()
                self.show()

        with form_dialog(tr("Rename or merge “{old}”", old=old), tr("Change"), rename) as asked:
            hint = tr("With the name of another class, the two become one.")
            present = self.draft.renamed.get(old, old)
            name = kit.field(tr("New name"), present, needed=tr("Enter a name."), most=_CLASS_NAME_LENGTH, hint=hint)
            name.props("autofocus")

    async def _ask_for_dataset(self) -> None:
        ready = [dataset async for dataset in self.user.api.datasets.list(self.dataset.domain_id, MOST, status="ready")]
        taken = {self.dataset.id, *self.draft.added}
        names = {dataset.id: datasets.label_of(dataset) for dataset in ready if dataset.id not in taken}
        if not names:
            kit.refused(
                tr("No other images"), tr("This domain has no other data set to add. Upload one, or copy one to it.")
            )
            return

        def add() -> None:
            self.draft.added[chosen.value] = names[chosen.value]
            asked.close()
            self.show()

        with form_dialog(tr("Add images of another data set"), tr("Add"), add) as asked:
            chosen = kit.choice(
                tr("Data set"), names, next(iter(names)), hint=tr("Classes of the same name become one.")
            )

    def _ask_to_discard(self) -> None:
        def discard() -> None:
            self.draft.clear()
            self.show()

        kit.confirm(tr("Discard all changes?"), tr("The data set stays as it is."), tr("Discard all changes"), discard)

    def _review(self) -> None:
        async def save() -> None:
            form = Form(name=name)
            if not form.is_valid():
                return
            with form.showing_problems():
                edit = self.draft.edit()
                version = await self.user.api.datasets.edit(self.dataset.id, name=text_of(name), **edit)
                self.draft.clear()
                self.show()
                ui.navigate.to(datasets.path_of(version))

        with form_dialog(tr("Save as a new version"), tr("Save"), save) as asked:
            kit.muted(tr("This data set stays as it is, and no image is stored twice."))
            with kit.box("changes", "ul"):
                for change in self.draft.changes(self.counts):
                    self._change(change, asked)
            name = kit.field(tr("Name of the version"), self.dataset.name or "", most=NAME_LENGTH)

    def _change(self, change: Change, asked: ui.dialog) -> None:
        """Adds a change to the dialog, with a button that takes it back."""

        def undo() -> None:
            change.undo()
            row.delete()
            self.show()
            if self.draft.is_empty:
                asked.close()

        with kit.box("row spread no-wrap", "li") as row:
            kit.write(change.text, "span")
            kit.button(tr("Undo"), undo, kind="quiet").props["aria-label"] = tr("Undo: {text}", text=change.text)


def _class_of(image: DatasetImage) -> str:
    return image.class_name


def _mark(element: ui.element, name: str, *, when: bool) -> None:
    """Adds a class to an element, or removes it."""
    element.classes(add=name if when else None, remove=None if when else name)


def _thumbnail(image: DatasetImage, description: str) -> None:
    if image.thumbnail_url:
        kit.picture(image.thumbnail_url, description)
    else:
        with kit.box("picture waiting"):
            pass
