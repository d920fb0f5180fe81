"""The SDK with a real server, through both of its clients."""

import asyncio
import hashlib
import io
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from core.artifact.file import decode
from difffit import AsyncClient, Client, Picture, errors, read_settings
from difffit.archives import pack
from difffit.events import Progress, Sample, Status
from tests.client.conftest import CLASSES, Drawable, Server


def test_main_job_runs_with_the_async_client(server: Server, drawings: Path, name: str) -> None:
    async def main_job() -> tuple[Picture, ...]:
        async with AsyncClient(server.url, server.key) as client:
            domain = await client.domains.create(name)
            sent: list[int] = []
            dataset = await client.datasets.upload(domain.id, drawings, lambda done, total: sent.append(total - done))
            assert sent[-1] == 0
            await client.datasets.wait(dataset.id)
            finetune = await client.finetunes.start(domain.id, dataset.id, steps=3, batch_size=2)
            events = [event async for event in client.finetunes.events(finetune.id)]
            assert isinstance(events[-1], Status)
            assert events[-1].status == "succeeded"
            assert [row.id async for row in client.domains.list(limit=1)] == [domain.id]
            pictures, usage = await asyncio.gather(
                client.generate(domain.id, class_name="smiling-face", steps=2), client.usage()
            )
            assert usage.training_seconds > 0
            return pictures

    (picture,) = asyncio.run(main_job())
    assert picture.settings["class"] == "smiling-face"


def test_folder_becomes_a_dataset_without_hidden_and_other_files(client: Client, drawable: Drawable) -> None:
    dataset = client.datasets.get(drawable.dataset_id)
    assert [(class_.name, class_.images) for class_ in dataset.classes] == [(name, 4) for name in CLASSES]
    assert dataset.report.rejected == []  # neither the hidden file nor the text was sent
    images = list(client.datasets.images(dataset.id, class_id=0))
    assert [image.class_name for image in images] == ["fruit"] * 4
    assert client.datasets.thumbnail(dataset.id, images[0].number).startswith(b"\xff\xd8")


@pytest.mark.parametrize("in_parts", [False, True])
def test_dataset_gets_its_name_with_the_upload(
    client: Client, drawable: Drawable, drawings: Path, in_parts: bool
) -> None:
    name = f"Fruit, {in_parts}"
    made = client.datasets.upload(drawable.id, drawings, name=name, in_parts=in_parts)
    assert [row.id for row in client.datasets.list(name=name)] == [made.id]
    assert client.datasets.update(made.id, name=None).name is None


def test_zip_is_sent_unchanged(client: Client, drawings: Path, name: str, tmp_path: Path) -> None:
    path = tmp_path / "drawings.zip"
    with path.open("wb") as file:
        pack(drawings, file)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("fruit/broken.png", b"not an image")
    dataset = client.datasets.wait(client.datasets.upload(client.domains.create(name).id, path).id)
    assert (dataset.size_bytes, dataset.images) == (path.stat().st_size, 8)
    assert [(file.file, file.code) for file in dataset.report.rejected] == [("fruit/broken.png", "not_an_image")]


def test_zip_is_sent_from_memory_and_from_an_open_file(client: Client, drawings: Path, name: str) -> None:
    packed = io.BytesIO()
    pack(drawings, packed)
    domain = client.domains.create(name)
    for source in (packed, packed.getvalue()):
        dataset = client.datasets.wait(client.datasets.upload(domain.id, source).id)
        assert dataset.images == 8
    hasty = Client(client.url, client._session.settings.api_key, timeout=0.001, max_retries=0)
    with hasty, pytest.raises(errors.ConnectionFailed):
        hasty.usage()


def test_equal_folders_are_packed_to_equal_bytes(drawings: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for path in drawings.rglob("*.png"):
        target = copy / path.relative_to(drawings)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    digests = set()
    for folder in (drawings, copy):
        with (tmp_path / "packed.zip").open("wb") as file:
            pack(folder, file)
        digests.add(hashlib.sha256((tmp_path / "packed.zip").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_unusable_folders_raise_with_their_error_codes(client: Client, drawable: Drawable, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidInput, match="no images"):
        client.datasets.upload(drawable.id, tmp_path)
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "one.png").write_bytes(b"not in a class folder")
    with pytest.raises(errors.InvalidInput, match="contains images itself"):
        client.datasets.upload(drawable.id, flat)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(flat / "one.png", "one.png")
    with pytest.raises(errors.InvalidRequest) as refused:
        client.datasets.upload(drawable.id, packed)
    assert refused.value.code == "no_class_folders"
    (flat / "class").mkdir()
    for number in range(2):
        (flat / "class" / f"{number}.png").write_bytes(b"not an image")
    rejected = client.datasets.upload(drawable.id, flat / "class" / "..")
    with pytest.raises(errors.JobFailed) as failed:
        client.datasets.wait(rejected.id)
    assert failed.value.code == "too_few_images"
    assert failed.value.job.id == rejected.id


def test_upload_over_the_limit_raises_payload_too_large(client: Client, drawable: Drawable, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "large.png").write_bytes(bytes(16 * 2**20))
    with pytest.raises(errors.InvalidRequest) as refused:
        client.datasets.upload(drawable.id, tmp_path)
    assert refused.value.code == "payload_too_large"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused_by_the_field(
    client: Client, drawable: Drawable, number: float
) -> None:
    with pytest.raises(errors.InvalidRequest) as refused:
        client.generate(drawable.id, class_name="smiling-face", guidance_scale=number)
    assert [error["field"] for error in refused.value.errors] == ["body.guidance_scale"]


def test_events_cover_the_whole_finetune_and_can_be_resumed(client: Client, drawable: Drawable) -> None:
    events = list(client.finetunes.events(drawable.finetune_id))
    assert [event.id for event in events] == sorted({event.id for event in events})
    (progress,) = [event for event in events if isinstance(event, Progress)]
    assert str(progress).startswith("Progress(step=3, ")
    (sample,) = [event for event in events if isinstance(event, Sample)]
    assert (progress.step, progress.steps, sample.step) == (3, 3, 3)
    assert client.finetunes.sample(drawable.finetune_id, sample.id).startswith(b"\x89PNG")
    assert isinstance(events[-1], Status)
    assert events[-1].adapter_id == drawable.adapter_id
    assert [event.id for event in client.finetunes.events(drawable.finetune_id, after=sample.id)] == [events[-1].id]
    assert list(client.finetunes.events(drawable.finetune_id, after=events[-1].id)) == []
    assert [point.step for point in client.finetunes.metrics(drawable.finetune_id).data] == [3]


def test_estimate_starts_no_finetune(client: Client, drawable: Drawable) -> None:
    before = list(client.finetunes.list(drawable.id))
    estimate = client.finetunes.estimate(drawable.id, drawable.dataset_id, steps=10, batch_size=4)
    assert (estimate.images_seen, estimate.epochs) == (40, 5.0)
    assert list(client.finetunes.list(drawable.id)) == before


def test_lists_continue_across_pages(admin: Client, server: Server) -> None:
    tenant = admin.admin.tenants.create("Many domains")
    with Client(server.url, admin.admin.keys.create(tenant.id, "k").key) as client:
        ids = [client.domains.create(f"Domain {number}").id for number in range(103)]
        assert [domain.id for domain in client.domains.list()] == ids[::-1]
        assert [domain.id for domain in client.domains.list(limit=102)] == ids[:0:-1]
        assert list(client.domains.list(limit=0)) == []
        first = client.domains.list().page()
        second = client.domains.list(limit=2).page(first.next_cursor)
        assert [domain.id for domain in (*first.data, *second.data)] == ids[:0:-1]
    admin.admin.tenants.delete(tenant.id)


def test_versions_are_promoted_downloaded_and_uploaded(client: Client, drawable: Drawable, tmp_path: Path) -> None:
    path = client.adapters.download(drawable.adapter_id, tmp_path)
    assert path == tmp_path / f"{drawable.adapter_id}.safetensors"
    assert decode(path.read_bytes()).manifest.class_names == CLASSES
    uploaded = client.adapters.upload(drawable.id, path)
    assert uploaded.finetune_id is None
    assert uploaded.sha256 == client.adapters.get(drawable.adapter_id).sha256
    assert [adapter.id for adapter in client.adapters.list(drawable.id)][:1] == [uploaded.id]
    assert client.adapters.promote(drawable.id, uploaded.id).active_adapter_id == uploaded.id
    assert client.adapters.promote(drawable.id, drawable.adapter_id).active_adapter_id == drawable.adapter_id


def test_pictures_contain_their_settings_and_overwrite_no_other(
    client: Client, drawable: Drawable, tmp_path: Path
) -> None:
    first, second = client.generate(drawable.id, class_id=0, count=2, seed=7, steps=2, guidance_interval=(200, 800))
    assert (first.seed, second.seed) == (7, 8)
    assert len(repr(first)) < 300
    assert first._repr_png_() == first.data
    assert first.settings | {"adapter": "", "base": ""} == {
        "adapter": "",
        "base": "",
        "class": "fruit",
        "seed": 7,
        "steps": 2,
        "guidance_scale": 4.0,
        "guidance_adapter_scale": 0.75,
        "guidance_interval": [200, 800],
        "sampler": "dpmpp_2m",
        "eta": 0.0,
    }
    assert first.save(tmp_path) == first.save(tmp_path) == tmp_path / "fruit-7.png"
    archive = client.generations.download(first.generation_id, tmp_path)
    assert archive == tmp_path / f"{first.generation_id}.zip"
    with zipfile.ZipFile(archive) as packed:
        assert [packed.read(f"{first.generation_id}-{index}.png") for index in (0, 1)] == [first.data, second.data]
    (other,) = client.generate(drawable.id, class_name="fruit", seed=7, steps=3)
    assert other.save(tmp_path) == tmp_path / "fruit-7-2.png"
    assert second.save(tmp_path / "named.png").read_bytes() == second.data
    with pytest.raises(errors.InvalidInput, match="not a PNG"):
        read_settings(b"GIF89a")


def test_preview_is_listed_and_downloaded(client: Client, drawable: Drawable) -> None:
    started = client.generations.create(drawable.id, class_id=0, steps=4, previews=1, prefer_wait=30)
    drawn = client.generations.wait(started.id)
    assert [(preview.index, preview.step) for preview in drawn.previews] == [(0, 2)]
    assert client.generations.preview(drawn.id, 0, 2).startswith(b"\x89PNG")


def test_wait_times_out_and_raises_for_a_cancelled_finetune(client: Client, drawable: Drawable) -> None:
    finetune = client.finetunes.start(drawable.id, drawable.dataset_id, steps=100_000, batch_size=1)
    with pytest.raises(errors.WaitTimeout):
        client.finetunes.wait(finetune.id, timeout=0.3)
    client.finetunes.cancel(finetune.id)
    with pytest.raises(errors.JobFailed, match="cancelled") as ended:
        client.finetunes.wait(finetune.id)
    assert ended.value.code == "cancelled"
    with pytest.raises(errors.Conflict):
        client.finetunes.cancel(finetune.id)


@pytest.mark.parametrize(
    ("call", "kind", "code"),
    [
        (lambda client, domain: client.domains.get("dom_nothing"), errors.NotFound, "not_found"),
        (lambda client, domain: client.domains.create("Line drawings"), errors.NameTaken, "name_taken"),
        (lambda client, domain: client.domains.create("\n"), errors.InvalidRequest, "invalid_request"),
        (lambda client, domain: client.generate(domain, class_name="car"), errors.InvalidRequest, "unknown_class"),
        (lambda client, domain: client.admin.tenants.create("x"), errors.Forbidden, "forbidden"),
    ],
)
def test_each_problem_raises_its_exception_class(client: Client, drawable: Drawable, call, kind, code) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(kind) as raised:
        call(client, drawable.id)
    error = raised.value
    assert (error.code, error.title != "", error.request_id != "") == (code, True, True)


def test_missing_adapter_wrong_key_and_missing_key_raise(client: Client, server: Server, name: str) -> None:
    domain = client.domains.create(name)
    with pytest.raises(errors.NoActiveAdapter):
        client.generate(domain.id, class_id=0)
    with Client(server.url, "dfk_wrong") as stranger, pytest.raises(errors.Unauthenticated):
        stranger.usage()
    with Client(server.url) as keyless:
        assert keyless.ready().workers == 1
        with pytest.raises(errors.NotConfigured, match="DIFFFIT_API_KEY"):
            keyless.usage()


def test_client_with_url_and_key_reads_no_other_settings(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFFIT_API_KEY", server.key)
    monkeypatch.setenv("DIFFFIT_PROFILE", "missing")
    with Client(server.url, "") as keyless, pytest.raises(errors.NotConfigured):
        keyless.usage()


@pytest.mark.parametrize("id", ["", "..", "{id}/adapters", "{id}/../.."])
def test_ids_cannot_change_the_path(client: Client, drawable: Drawable, id: str) -> None:
    with pytest.raises(errors.InvalidInput):
        client.domains.get(id.format(id=drawable.id))


def test_ids_cannot_add_a_query(client: Client, drawable: Drawable) -> None:
    with pytest.raises(errors.NotFound):
        client.domains.get(f"{drawable.id}?x")


def test_admin_manages_tenants_and_keys(admin: Client, drawable: Drawable, server: Server) -> None:
    tenant = admin.admin.tenants.create("Acme")
    assert admin.admin.tenants.update(tenant.id, weight=2.0, quotas={"images_per_day": 5}).weight == 2.0
    assert admin.admin.tenants.get(tenant.id).quotas == {"images_per_day": 5}
    key = admin.admin.keys.create(tenant.id, "laptop", ["read"])
    with Client(server.url, key.key) as reader, pytest.raises(errors.Forbidden):
        reader.domains.create("not with this key")
    assert admin.admin.keys.update(key.id, lifetime_seconds=60).expires_at is not None
    assert admin.admin.keys.update(key.id, name="phone", lifetime_seconds="endless").expires_at is None
    rotated = admin.admin.keys.rotate(key.id, overlap_seconds=0)
    assert (rotated.name, rotated.scopes) == ("phone", ["read"])
    with Client(server.url, key.key) as old, pytest.raises(errors.Unauthenticated):
        old.usage()
    colleague = admin.admin.keys.create_admin("Ada", 3600)
    with Client(server.url, colleague.key) as other:
        assert colleague.id in [row.id for row in other.admin.keys.list_admin()]
        other.admin.keys.revoke(colleague.id)
    expiring = admin.admin.keys.rotate(rotated.id, lifetime_seconds=60)
    endless = admin.admin.keys.rotate(expiring.id, lifetime_seconds="endless")
    assert (rotated.expires_at, endless.expires_at) == (None, None)
    assert admin.admin.keys.rotate(expiring.id).expires_at is not None
    admin.admin.keys.revoke(rotated.id)
    assert {row.id for row in admin.admin.keys.list(tenant.id)} >= {key.id, rotated.id, expiring.id, endless.id}
    stored = {adapter.id: adapter for adapter in admin.admin.adapters(domain_id=drawable.id)}
    assert drawable.adapter_id in stored
    assert list(admin.admin.adapters(tenant_id=tenant.id)) == []
    (worker,) = admin.admin.workers()
    assert stored[drawable.adapter_id].base_digest == worker.base_digest
    owner = stored[drawable.adapter_id].tenant_id
    days = [day.day for day in admin.admin.usage(tenant_id=owner)]
    assert list(admin.admin.usage(tenant_id=owner, to_day=min(days) - timedelta(1))) == []
    assert [day.day for day in admin.admin.usage(tenant_id=owner, from_day=days[0], to_day=days[0])] == days[:1]
    assert next(admin.admin.audit(limit=1)).action == "key.revoke"
    admin.admin.tenants.delete(tenant.id)
    with pytest.raises(errors.NotFound):
        admin.admin.tenants.get(tenant.id)
