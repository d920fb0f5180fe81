"""Changes of a data set that a user has chosen and not saved yet."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Self, TypedDict

from pydantic import TypeAdapter, ValidationError

from api.dashboard import words
from api.dashboard.texts import tr


class Change(NamedTuple):
    """Change as a sentence, with the function that takes it back."""

    text: str
    undo: Callable[[], object]


class Edit(TypedDict):
    """Changes as keyword arguments of the client's `datasets.edit`."""

    add: list[str]
    remove: list[int]
    drop_classes: list[str]
    rename_classes: dict[str, str]


@dataclass
class Draft:
    """Unsaved changes of one data set, which are saved together as a new version. The user's session holds them, and so
    does the browser's tab, for a session that ends, as all do when the API restarts."""

    removed: dict[int, str] = field(default_factory=dict)
    """Class names of the removed images, by the image's number."""
    dropped: set[str] = field(default_factory=set)
    """Names of the removed classes."""
    renamed: dict[str, str] = field(default_factory=dict)
    """New names of classes, by their present names."""
    added: dict[str, str] = field(default_factory=dict)
    """Names of the data sets whose images are added, by id."""

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Returns the draft that a browser has kept as `to_text`; an empty one if the text is broken."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError:
            return cls()

    def to_text(self) -> str:
        return "" if self.is_empty else TypeAdapter(Draft).dump_json(self).decode()

    @property
    def is_empty(self) -> bool:
        return not any((self.removed, self.dropped, self.renamed, self.added))

    def toggle(self, number: int, class_name: str) -> None:
        """Removes an image, or keeps it if it was removed."""
        if self.removed.pop(number, None) is None:
            self.removed[number] = class_name

    def keep_images(self, class_name: str) -> None:
        """Keeps all images of a class."""
        self.removed = {number: name for number, name in self.removed.items() if name != class_name}

    def drop(self, class_name: str) -> None:
        """Removes a class. Its images and its name need no changes of their own then."""
        self.keep_images(class_name)
        self.renamed.pop(class_name, None)
        self.dropped.add(class_name)

    def rename(self, class_name: str, new_name: str) -> None:
        """Renames a class, which is kept then. With its present name, it keeps that name."""
        self.dropped.discard(class_name)
        self.renamed.pop(class_name, None)
        if new_name != class_name:
            self.renamed[class_name] = new_name

    def clear(self) -> None:
        for changes in (self.removed, self.dropped, self.renamed, self.added):
            changes.clear()

    def changes(self, images: Mapping[str, int]) -> list[Change]:
        """Returns the changes in the order in which they are made. `images` has the number of images of each class."""
        counts = sorted(Counter(self.removed.values()).items())
        return [
            *(
                Change(
                    tr("Remove {images} of “{name}”.", images=words.several(count, "image"), name=name),
                    partial(self.keep_images, name),
                )
                for name, count in counts
            ),
            *(
                Change(tr("Add the images of “{name}”.", name=name), partial(self.added.pop, id, None))
                for id, name in self.added.items()
            ),
            *(
                Change(
                    tr(
                        "Remove the class “{name}” with {images}.",
                        name=name,
                        images=words.several(images.get(name, 0), "image"),
                    ),
                    partial(self.dropped.discard, name),
                )
                for name in sorted(self.dropped)
            ),
            *(
                Change(self._renaming(old, new, images), partial(self.renamed.pop, old, None))
                for old, new in self.renamed.items()
            ),
        ]

    def note(self, class_name: str) -> str:
        """Returns what happens to a class as a whole; an empty text if nothing does."""
        if class_name in self.dropped:
            return tr("Will be removed")
        return tr("Will become “{new}”", new=self.renamed[class_name]) if class_name in self.renamed else ""

    def edit(self) -> Edit:
        return {
            "add": list(self.added),
            "remove": sorted(self.removed),
            "drop_classes": sorted(self.dropped),
            "rename_classes": dict(self.renamed),
        }

    def _renaming(self, old: str, new: str, images: Mapping[str, int]) -> str:
        others = {self.renamed.get(name, name) for name in images if name != old and name not in self.dropped}
        return (
            tr("Merge “{old}” into “{new}”.", old=old, new=new)
            if new in others
            else tr("Rename “{old}” to “{new}”.", old=old, new=new)
        )
