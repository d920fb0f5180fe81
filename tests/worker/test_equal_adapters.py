"""Adapter files with equal content that belong to different owners, on a worker with a real engine."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.artifact.file import decode, encode
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import trainable_shapes
from core.service import domains
from core.service.db.models import Adapter, Generation
from core.service.tenancy import Scope
from tests.api.client import adapter_file
from tests.core.service.rows import add_adapter, add_generation, tenant_with_domain
from worker.context import Context
from worker.runner import Runner
from worker.tasks.generate import Drawing

Owner = tuple[Scope, str]


def upload(context: Context, owner: Owner) -> str:
    """Stores the same adapter file for an owner, and returns the id of the version."""
    scope, domain = owner
    base = context.gpu.base.description
    manifest = replace(decode(adapter_file()).manifest, base_digest=base.digest)
    shapes = trainable_shapes(base.config, manifest.method, manifest.sites, len(manifest.class_names))
    data = encode(manifest, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    key = f"{domains.folder(scope.tenant, domain)}adapters/a.safetensors"
    context.store.put(key, data)
    sha256 = hashlib.sha256(data).hexdigest()
    with context.database.session() as session:
        return add_adapter(session, scope, domain, 1, sha256=sha256, object_key=key, base_digest=base.digest).id


def generate(context: Context, owner: Owner, id: str, **values: Any) -> tuple[str, str | None]:
    """Generates an image with a version, and returns the status and the error code of the generation."""
    with context.database.session() as session:
        generation = add_generation(session, *owner, adapter_id=id, **values).id
    assert Runner(context, {Generation: Drawing}).run_next(Generation)
    with context.database.session() as session:
        row = session.get_one(Generation, generation)
        return row.status, row.error_code


def status(context: Context, id: str) -> str:
    with context.database.session() as session:
        return session.get_one(Adapter, id).status


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_broken_file_of_one_owner_leaves_an_equal_file_of_another_in_service(context: Context, damage: str) -> None:
    owners = [tenant_with_domain(context.database, name) for name in ("first", "second")]
    broken, healthy = (upload(context, owner) for owner in owners)
    code = break_file(context, broken, damage)
    assert generate(context, owners[0], broken) == ("failed", code)
    assert generate(context, owners[1], healthy) == ("succeeded", None)
    assert (status(context, broken), status(context, healthy)) == ("quarantined", "ready")


@pytest.mark.parametrize("place", ["adapter_id", "mix_adapter_id"])
def test_mix_of_two_equal_files_quarantines_the_missing_one(context: Context, place: str) -> None:
    scope, domain = tenant_with_domain(context.database)
    with context.database.session(scope) as session:
        other = domains.create(session, "other", "", "mini").id
    healthy, broken = upload(context, (scope, domain)), upload(context, (scope, other))
    break_file(context, broken, "missing")
    versions = {"adapter_id": healthy, "mix_adapter_id": healthy} | {place: broken}
    mix = {"mix_adapter_id": versions["mix_adapter_id"], "mix_class_id": 0}
    sampling = SamplingSettings(steps=2, mix_weight=0.5)
    ended = generate(context, (scope, domain), versions["adapter_id"], sampling=sampling, **mix)
    assert ended == ("failed", "not_found")
    assert (status(context, broken), status(context, healthy)) == ("quarantined", "ready")


def break_file(context: Context, id: str, damage: str) -> str:
    """Damages the stored file of a version. Returns the error code of generations that need it."""
    with context.database.session() as session:
        key = session.get_one(Adapter, id).object_key
    if damage == "missing":
        context.store.delete([key])
        return "not_found"
    context.store.put(key, b"damaged")
    return "checksum_mismatch"
