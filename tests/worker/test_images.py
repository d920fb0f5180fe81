"""Images of a generation, which a worker stores several at a time."""

import threading
import time

import pytest
from sqlalchemy import select

from core.service.db.models import Generation, GenerationImage
from core.service.storage import StoredObject
from core.service.storage.errors import StorageFull
from tests.core.service.rows import add_generation, tenant_with_domain
from worker.context import Context
from worker.runner import Runner
from worker.tasks.generate import Drawing

COUNT = 4


def generate(context: Context) -> Generation:
    scope, domain = tenant_with_domain(context.database)
    with context.database.session() as session:
        id = add_generation(session, scope, domain, count=COUNT, seed=10).id
    assert Runner(context, {Generation: Drawing}).run_next(Generation)
    with context.database.session() as session:
        return session.get_one(Generation, id)


def test_images_keep_the_order_of_their_seeds(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first image is stored last."""
    put, others, first_may_end = context.put, list[str](), threading.Event()

    def slow_first(key: str, data: bytes) -> StoredObject:
        if key.endswith("/0.png"):
            assert first_may_end.wait(60)
        else:
            others.append(key)
            if len(others) == COUNT - 1:
                first_may_end.set()
        return put(key, data)

    monkeypatch.setattr(context, "put", slow_first)
    assert generate(context).status == "succeeded"
    with context.database.session() as session:
        images = session.scalars(select(GenerationImage).order_by(GenerationImage.index)).all()
    assert [(image.index, image.seed) for image in images] == [(index, 10 + index) for index in range(COUNT)]
    assert all(image.object_key.endswith(f"/{image.index}.png") for image in images)


def test_image_that_cannot_be_stored_ends_the_attempt(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt ends with the error of storing, once none of its images is being stored."""
    storing, put, failed = set[str](), context.put, threading.Event()

    def full(key: str, data: bytes) -> StoredObject:
        storing.add(key)
        try:
            if key.endswith("/2.png"):
                failed.set()
                raise StorageFull("a test")
            assert failed.wait(60)
            time.sleep(0.2)
            return put(key, data)
        finally:
            storing.remove(key)

    monkeypatch.setattr(context, "put", full)
    generation = generate(context)
    assert (generation.status, generation.error_code) == ("queued", StorageFull.code)
    assert not storing
