"""Versions of data sets: edits, and copies to other domains. A version refers to the zips of the data sets that it is
made from, so that an edit stores no image again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from core.service import audit, domains, jobs, metering
from core.service.datasets.archive import MINIMUM_IMAGES
from core.service.datasets.images import Refused
from core.service.datasets.layout import class_name
from core.service.datasets.report import Member, Report
from core.service.datasets.service import folder, get
from core.service.db.base import new_id
from core.service.db.models import Dataset
from core.service.errors import DatasetNotReady, EditInvalid
from core.service.quotas import Quotas
from core.service.resources import Resources

Zip = dict[str, Any]
"""Stored zip: {key, sha256, size_bytes}."""
Image = tuple[str, Member]
"""Class name and member of an image."""


@dataclass(frozen=True)
class Edit:
    """Changes that make a new version of a data set, in the order in which they are made."""

    add_dataset_ids: Sequence[str] = ()
    """Data sets of the same domain whose images are added."""
    remove_images: Sequence[int] = ()
    """Numbers of images of the edited data set."""
    drop_classes: Sequence[str] = ()
    rename_classes: Mapping[str, str] = field(default_factory=dict)
    """New names of classes. Classes with the same new name are merged."""
    name: str | None = None


def create(session: Session, resources: Resources, id: str, edit: Edit) -> Dataset:
    """Creates a version of a data set. Raises NotFound, DatasetNotReady, EditInvalid, QuotaExceeded,
    StorageQuotaExceeded."""
    Quotas(session, resources.settings).admit_dataset(0)
    locked = {each: get(session, each, lock=True) for each in sorted({id, *edit.add_dataset_ids})}
    _check_added(resources, [locked[added] for added in edit.add_dataset_ids])
    parent, zips = locked[id], list[Zip]()
    images = _images(parent, zips)
    _check(edit.remove_images, range(1, len(images) + 1), "remove_images", "image")
    removed = set(edit.remove_images)
    images = [image for number, image in enumerate(images, 1) if number not in removed]
    for added in edit.add_dataset_ids:
        if locked[added].domain_id != parent.domain_id:
            raise EditInvalid("add_dataset_ids", f"'{added}' belongs to another domain. Copy it to this one first.")
        images += _images(locked[added], zips)
    names = {name for name, _ in images}
    _check(edit.drop_classes, names, "drop_classes", "class")
    _check(edit.rename_classes, names, "rename_classes", "class")
    new_names = {old: _new_name(new) for old, new in edit.rename_classes.items()}
    dropped = set(edit.drop_classes)
    images = [(new_names.get(name, name), member) for name, member in images if name not in dropped]
    return _insert(session, resources, parent, parent.domain_id, images, zips, edit.name)


def copy(session: Session, resources: Resources, domain_id: str, id: str, name: str | None = None) -> Dataset:
    """Creates a copy of a data set in another domain of the same tenant. A worker copies the zips, so that each domain
    can be deleted with all of its objects. Raises NotFound, DatasetNotReady, EditInvalid, QuotaExceeded,
    StorageQuotaExceeded."""
    limits = Quotas(session, resources.settings)
    limits.hold()
    domain, original, zips = domains.get(session, domain_id), get(session, id, lock=True), list[Zip]()
    domains.get(session, original.domain_id, lock=True)  # against its deletion meanwhile
    if original.domain_id == domain.id:
        raise EditInvalid("dataset_id", "It is in this domain already. Create a version of it instead.")
    images = _images(original, zips)
    size = sum(zip["size_bytes"] for zip in zips)
    limits.admit_dataset(size)
    copied = _insert(session, resources, original, domain.id, images, zips, name or original.name)
    prefix = folder(copied.tenant_id, copied.domain_id, copied.id)
    copied.sources = [
        {**zip, "key": f"{prefix}{index}.zip", "copy_of": zip["key"]} for index, zip in enumerate(copied.sources)
    ]
    metering.add_stored_bytes(session, domain.id, sum(zip["size_bytes"] for zip in copied.sources))
    return copied


def _images(dataset: Dataset, zips: list[Zip]) -> list[Image]:
    """Returns the images of a data set with their class names, and adds the data set's zips to `zips`, each once. The
    images' `zip` is then the index in `zips`. Raises DatasetNotReady, and EditInvalid for a data set of an earlier
    release, whose images have no SHA-256."""
    if dataset.status != "ready":
        raise DatasetNotReady(dataset.id, dataset.status)
    places = []
    keys = {zip["key"]: index for index, zip in enumerate(zips)}
    for zip in dataset.zips:
        if zip["key"] not in keys:
            keys[zip["key"]] = len(zips)
            zips.append({name: zip[name] for name in ("key", "sha256", "size_bytes")})
        places.append(keys[zip["key"]])
    members = [Member.from_json(values) for values in dataset.members]
    if not all(member.sha256 for member in members):
        raise EditInvalid("id", f"'{dataset.id}' was checked by an earlier release. Upload its zip again.")
    names = [label["name"] for label in dataset.classes]
    return [(names[member.class_id], replace(member, zip=places[member.zip])) for member in members]


def _insert(
    session: Session,
    resources: Resources,
    parent: Dataset,
    domain_id: str,
    images: Sequence[Image],
    zips: Sequence[Zip],
    name: str | None,
) -> Dataset:
    """Creates the data set of these images, and dispatches the job that completes its report after the commit. Leaves
    out copies of an image in the same class. Raises EditInvalid if there are too few or too many images or classes."""
    unique = {(name, member.sha256): member for name, member in reversed(images)}  # of copies, the first stays
    kept = [(name, member) for name, member in images if unique[name, member.sha256] is member]
    _check_size(resources, kept)
    class_names = sorted({name for name, _ in kept})
    used = sorted({member.zip for _, member in kept})
    members = [replace(member, class_id=class_names.index(name), zip=used.index(member.zip)) for name, member in kept]
    dataset = Dataset(
        id=new_id("ds"),
        tenant_id=parent.tenant_id,
        domain_id=domain_id,
        parent_id=parent.id,
        name=name,
        status="validating",
        archive_key="",
        archive_sha256="",
        size_bytes=0,
        sources=[zips[index] for index in used],
        members=[member.to_json() for member in members],
        classes=Report(class_names, members).classes_json(),
    )
    session.add(dataset)
    session.flush()
    jobs.dispatch(session, resources.dispatcher, dataset)
    audit.record(session, "dataset.create", dataset.id, detail={"parent": parent.id})
    return dataset


def _check(values: Any, allowed: Any, field: str, noun: str) -> None:
    """Raises EditInvalid, which names the first of `values` that is not in `allowed`."""
    for value in values:
        if value not in allowed:
            raise EditInvalid(field, f"There is no {noun} '{value}'.")


def _check_added(resources: Resources, datasets: Sequence[Dataset]) -> None:
    """Raises EditInvalid if an edit would add too many images. It counts them, copies included, before any of them is
    loaded, since those of many data sets take hundreds of megabytes."""
    count, most = sum(dataset.images for dataset in datasets), resources.settings.max_archive_members
    if count > most:
        reason = f"These data sets have {count} images; at most {most} can be added at once. Name fewer data sets."
        raise EditInvalid("add_dataset_ids", reason)


def _new_name(text: str) -> str:
    try:
        return class_name(text)
    except Refused as refused:
        raise EditInvalid("rename_classes", refused.detail) from refused


def _check_size(resources: Resources, images: Sequence[Image]) -> None:
    settings = resources.settings
    classes = len({name for name, _ in images})
    if len(images) < MINIMUM_IMAGES:
        raise EditInvalid("remove_images", f"Only {len(images)} images are left; at least {MINIMUM_IMAGES} are needed.")
    if len(images) > settings.max_archive_members:
        most = settings.max_archive_members
        raise EditInvalid("add_dataset_ids", f"There would be {len(images)} images; at most {most} are allowed.")
    if classes > settings.max_classes:
        raise EditInvalid(
            "add_dataset_ids", f"There would be {classes} classes; at most {settings.max_classes} are allowed."
        )
