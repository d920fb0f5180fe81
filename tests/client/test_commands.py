"""Every command against a real server, with and without `--json`, and its exit code."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner, Result

from core.artifact.file import decode
from difffit import Client, read_settings
from difffit.cli.app import app
from difffit.models import Readiness
from tests import services
from tests.api.client import png
from tests.client.conftest import Drawable, Server
from tests.processes import ADMIN
from tests.receiver import content, receiving


class Shell:
    """Runner of commands with one key in the environment."""

    def __init__(self, url: str, key: str | None) -> None:
        self.environment = {"DIFFFIT_URL": url} | ({"DIFFFIT_API_KEY": key} if key else {})

    def run(self, *words: object, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], env=self.environment, input=typed)

    def text(self, *words: object) -> str:
        """Returns the output of a command that must succeed."""
        done = self.run(*words)
        assert done.exit_code == 0, done.output
        return done.stdout

    def json(self, *words: object) -> Any:
        done = self.run(*words, "--json")
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
        return json.loads(done.stdout)


@pytest.fixture
def shell(server: Server) -> Shell:
    return Shell(server.url, server.key)


@pytest.fixture
def admin_shell(server: Server) -> Shell:
    return Shell(server.url, ADMIN)


def test_domain_is_created_listed_updated_and_deleted(shell: Shell, name: str) -> None:
    domain = shell.json("domains", "create", name, "--description", "[bold]Flat[/bold]")
    assert domain["id"] in shell.text("domains", "list")
    assert domain["id"] == shell.json("domains", "list", "--limit", 1)[0]["id"]
    assert "[bold]Flat[/bold]" in shell.text("domains", "get", name)
    assert shell.json("domains", "update", name, "--name", f"{name}, again")["name"] == f"{name}, again"
    declined = shell.run("domains", "delete", domain["id"], typed="n\n")
    assert (declined.exit_code, shell.json("domains", "get", domain["id"])["id"]) == (130, domain["id"])
    deleted = shell.json("domains", "delete", domain["id"], "--yes")
    assert deleted["deleted"] == domain["id"]
    assert shell.json("deletions", "get", deleted["receipt"])["rows"] == {"domains": 1}
    assert deleted["receipt"] in [receipt["id"] for receipt in shell.json("deletions", "list")]
    assert domain["id"] in shell.text("deletions", "get", deleted["receipt"])
    assert shell.run("domains", "get", domain["id"]).exit_code == 4


def test_main_job_runs_from_the_shell(shell: Shell, name: str, drawings: Path, tmp_path: Path) -> None:
    shell.text("domains", "create", name)
    shown = shell.text("datasets", "upload", name, drawings)
    assert "ready" in shown
    assert "smiling-face" in shown
    watched = shell.text(
        *("finetunes", "start", name, "--steps", 3, "--batch-size", 2, "--watch", "--samples", tmp_path / "on the way")
    )
    assert "succeeded" in watched
    assert [path.suffix for path in (tmp_path / "on the way").iterdir()] == [".png"]
    options = ("-n", 2, "--seed", 12345, "--steps", 2, "--previews", 1, "-o", tmp_path)
    *paths, first_preview, second_preview = shell.text("generate", name, "fruit", *options).splitlines()
    assert paths == [str(tmp_path / "fruit-12345.png"), str(tmp_path / "fruit-12346.png")]
    assert [Path(path).read_bytes()[1:4] for path in (first_preview, second_preview)] == [b"PNG"] * 2
    assert "fruit-12345-step-" in first_preview
    inspected = shell.json("inspect", paths[1])
    assert (inspected["class"], inspected["seed"]) == ("fruit", 12346)
    assert inspected == read_settings(Path(paths[1]).read_bytes())
    shown = shell.text("inspect", paths[0])
    assert "fruit" in shown
    assert "12345" in shown, "without separators, as --seed takes it"


def test_sample_data_is_stored_by_a_worker(shell: Shell, name: str) -> None:
    shell.text("domains", "create", name)
    first, second = (shell.json("datasets", "sample", name) for _ in range(2))
    assert (first["status"], first["images"], len(first["classes"])) == ("ready", 160, 8)
    assert first["size_bytes"] > 100_000
    names = ("digest", "size_bytes", "name")
    assert [first[name] for name in names] == [second[name] for name in names]
    edited = shell.json("datasets", "edit", first["id"], "--drop-class", "heart")
    assert edited["images"] == 140
    for dataset in (edited, first, second):
        shell.json("datasets", "delete", dataset["id"], "--yes")


def test_images_are_imported_by_their_urls(shell: Shell, name: str, tmp_path: Path) -> None:
    shell.text("domains", "create", name)
    with receiving(lambda request: content(png(int(request.path[1:])))(request)) as server:
        at = f"http://127.0.0.1:{server.port}"
        urls = tmp_path / "urls.csv"
        urls.write_text(f"url,class_name\n{at}/1,fruit\n{at}/2,fruit\n{at}/x,pear\n{at}/4,pear\n")
        dataset = shell.json("datasets", "import", name, urls, "--name", "Imported")
    assert (dataset["status"], dataset["images"], dataset["name"]) == ("ready", 3, "Imported")
    assert [(rejected["file"], rejected["code"]) for rejected in dataset["report"]["rejected"]] == [
        (f"{at}/x", "connection_failed")
    ]
    assert shell.run("datasets", "import", name).exit_code == 6
    assert shell.run("datasets", "import", name, urls, "--bucket", at).exit_code == 6
    assert shell.run("datasets", "import", name, "--bucket", "http://other.test").exit_code == 6
    urls.write_text("url\nhttps://a\n")
    assert "Line 2 needs the columns url and class_name" in shell.run("datasets", "import", name, urls).stderr


def test_bucket_is_imported(shell: Shell, name: str, s3_endpoint: str) -> None:
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="imported", ACL="public-read")
    for number in range(4):
        client.put_object(Bucket="imported", Key=f"set/{number % 2}/{number}.png", Body=png(50 * number))
    shell.text("domains", "create", name)
    dataset = shell.json("datasets", "import", name, "--bucket", f"{s3_endpoint}/imported", "--prefix", "set")
    assert [(row["name"], row["images"]) for row in dataset["classes"]] == [("0", 2), ("1", 2)]


def test_dataset_with_a_broken_file_is_uploaded(shell: Shell, name: str, drawings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "with a broken one"
    shutil.copytree(drawings, folder)
    (folder / "fruit" / "broken.png").write_bytes(b"not an image")
    shell.text("domains", "create", name)
    dataset = shell.json("datasets", "upload", name, folder)
    assert (dataset["status"], dataset["images"]) == ("ready", 8)
    assert "fruit/broken.png" in shell.text("datasets", "get", dataset["id"])
    assert shell.json("datasets", "get", dataset["id"]) == dataset
    assert dataset["id"] in shell.text("datasets", "list", name)
    without_files = {**dataset, "report": {**dataset["report"], "rejected": None}}
    assert shell.json("datasets", "list", name) == [without_files]
    images = shell.json("datasets", "images", dataset["id"], "--class", "fruit")
    assert [image["class_name"] for image in images] == ["fruit"] * 4
    assert images[0]["file"] in shell.text("datasets", "images", dataset["id"])
    assert shell.json("datasets", "images", dataset["id"], "--warning", "blank") == []
    assert shell.run("datasets", "images", dataset["id"], "--class", "tree").exit_code == 6
    packed = shell.text("datasets", "download", dataset["id"], "-o", tmp_path).strip()
    assert Path(packed) == tmp_path / f"{dataset['id']}.zip"
    assert len(zipfile.ZipFile(packed).namelist()) == 8
    assert [path.name for path in tmp_path.glob("*.part")] == []
    renamed = f"{name}, renamed"
    assert shell.json("datasets", "update", dataset["id"], "--name", renamed)["name"] == renamed
    assert [row["id"] for row in shell.json("datasets", "list", "--name", renamed)] == [dataset["id"]]
    assert shell.json("datasets", "list", "--after", "2999-01-01") == []
    renamed = ("--rename-class", "fruit=food", "--rename-class", "smiling-face=face", "--remove", images[0]["number"])
    edited = shell.json("datasets", "edit", dataset["id"], *renamed, "--name", "Edited")
    assert [(row["name"], row["images"]) for row in edited["classes"]] == [("face", 4), ("food", 3)]
    assert edited["parent_id"] == dataset["id"]
    assert shell.run("datasets", "edit", dataset["id"], "--rename-class", "fruit").exit_code == 6
    assert shell.run("datasets", "edit", dataset["id"], "--drop-class", "tree").exit_code == 6
    target = shell.json("domains", "create", f"{name}, copies")["id"]
    assert shell.json("datasets", "copy", edited["id"], target)["images"] == 7
    assert shell.json("datasets", "delete", dataset["id"], "--yes")["deleted"] == dataset["id"]
    assert shell.run("datasets", "get", dataset["id"]).exit_code == 4
    assert shell.json("datasets", "upload", name, drawings, "--no-wait")["status"] in {"validating", "ready"}


def test_finetune_is_estimated_started_cancelled_and_watched(shell: Shell, drawable: Drawable) -> None:
    estimate = shell.json("finetunes", "start", drawable.name, "--dry-run", "--steps", 10)
    assert estimate["images_seen"] == 320
    for line in ("% of the base", "suggested steps"):
        assert line in shell.text("finetunes", "start", drawable.name, "--dry-run")
    started = shell.json("finetunes", "start", drawable.id, "--dataset", drawable.dataset_id, "--steps", 100_000)
    assert shell.json("finetunes", "cancel", started["id"])["id"] == started["id"]
    ended = shell.run("finetunes", "watch", started["id"])
    assert (ended.exit_code, "cancelled" in ended.stderr) == (1, True)
    for command in ("get", "watch", "metrics"):
        assert "3" in shell.text("finetunes", command, drawable.finetune_id)
        assert shell.json("finetunes", command, drawable.finetune_id)
    listed = shell.json("finetunes", "list", drawable.id)
    assert {drawable.finetune_id, started["id"]} <= {row["id"] for row in listed}
    assert drawable.finetune_id in shell.text("finetunes", "list", drawable.id)
    events = [json.loads(line) for line in shell.text("finetunes", "events", drawable.finetune_id).splitlines()]
    assert {event["event"] for event in events} == {"status", "progress", "evaluation", "sample"}
    last = shell.json("finetunes", "events", drawable.finetune_id, "--after", events[-2]["id"])
    assert last == events[-1]


def test_adapter_is_downloaded_uploaded_and_promoted(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    assert shell.text("adapters", "download", drawable.adapter_id, "--output", path).strip() == str(path)
    assert decode(path.read_bytes()).sha256 == shell.json("adapters", "get", drawable.adapter_id)["sha256"]
    assert "fruit, smiling-face" in shell.text("adapters", "get", drawable.adapter_id)
    assert shell.json("inspect", path)["class_names"] == ["fruit", "smiling-face"]
    uploaded = shell.json("adapters", "upload", drawable.name, path)
    assert uploaded["version"] > 1
    assert uploaded["id"] in shell.text("adapters", "list", drawable.name)
    assert shell.json("adapters", "promote", uploaded["id"])["active_adapter_id"] == uploaded["id"]
    lines = shell.text("adapters", "list", drawable.name).splitlines()
    marked = [line for line in lines if line.lstrip().startswith("*")]
    assert [uploaded["id"] in line for line in marked] == [True]
    refused = shell.run("adapters", "delete", uploaded["id"], "--yes")
    assert (refused.exit_code, "is the active version" in refused.output) == (5, True)
    assert drawable.adapter_id in shell.text("adapters", "promote", drawable.adapter_id)
    assert len(shell.json("adapters", "list", drawable.name)) >= 2
    receipt = shell.json("adapters", "delete", uploaded["id"], "--yes")["receipt"]
    assert uploaded["id"] in shell.text("deletions", "get", receipt)
    assert uploaded["id"] not in shell.text("adapters", "list", drawable.name)


def test_version_is_continued_named_and_its_class_renamed(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    options = ("--from", drawable.adapter_id, "--steps", 2, "--batch-size", 2, "--watch")
    finetune = shell.json("finetunes", "start", drawable.name, "--dataset", drawable.dataset_id, *options)
    id = finetune["adapter_id"]
    sha256 = shell.json("adapters", "get", drawable.adapter_id)["sha256"]
    assert shell.json("adapters", "get", id)["manifest"]["training"]["continues"] == sha256
    changed = shell.json("adapters", "update", id, "--name", "Second", "--note", "more", "--rename", "fruit=food")
    assert (changed["name"], changed["note"], changed["class_names"]) == ("Second", "more", ["food", "smiling-face"])
    assert "Second" in shell.text("adapters", "list", drawable.name)
    filters = ("--class", "food", "--name", "second", "--after", "2020-01-01")
    assert [row["id"] for row in shell.json("adapters", "list", *filters)] == [id]
    assert shell.json("finetunes", "list", "--before", "2020-01-01") == []
    assert finetune["id"] in [row["id"] for row in shell.json("finetunes", "list", "--status", "succeeded")]
    assert "is not of the form OLD=NEW" in shell.run("adapters", "update", id, "--rename", "fruit").output
    drawn = shell.json("generate", drawable.id, "food", "--adapter", id, "--steps", 1, "-o", tmp_path)
    assert drawn["class_name"] == "food"
    assert shell.json("adapters", "update", id, "--name", "")["name"] is None


def test_generation_is_saved_listed_and_downloaded_again(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    options = ("--class-id", 1, "--seed", 0, "--steps", 2, "--guidance-adapter-scale", 0.5, "--adapter-scale", 0.8)
    drawn = shell.json("generate", drawable.id, *options, "--output", tmp_path / "a")
    assert (drawn["guidance_adapter_scale"], drawn["adapter_scale"]) == (0.5, 0.8)
    (image,) = drawn["images"]
    assert Path(image["path"]).name == "smiling-face-0.png"
    assert drawn["id"] in shell.text("generations", "list", drawable.id)
    assert drawn["id"] in {row["id"] for row in shell.json("generations", "list", drawable.id)}
    assert "smiling-face" in shell.text("generations", "get", drawn["id"])
    assert shell.json("generations", "get", drawn["id"])["images"][0]["sha256"] == image["sha256"]
    again = shell.text("generations", "download", drawn["id"], "-o", tmp_path / "b").strip()
    assert Path(again).read_bytes() == Path(image["path"]).read_bytes()
    assert shell.run("generations", "cancel", drawn["id"]).exit_code == 5
    base = shell.json("generate", drawable.id, "car", "--adapter", "base", "--steps", 1, "-o", tmp_path)
    assert base["adapter_id"] is None


def test_mix_of_two_versions_is_generated(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    """By options, and by the columns of a batch file."""
    file = shell.text("adapters", "download", drawable.adapter_id, "-o", tmp_path).strip()
    other = shell.json("adapters", "upload", drawable.id, file)["id"]
    options = ("fruit", "--seed", 4, "--steps", 1, "--mix-adapter", other)
    drawn = shell.json("generate", drawable.id, *options, "--mix-weight", 0.25, "-o", tmp_path / "mix")
    assert (drawn["mix_adapter_id"], drawn["mix_weight"]) == (other, 0.25)
    (tmp_path / "batch.csv").write_text(f"name,class_name,mix_adapter_id,mix_weight\nfirst,fruit,{other},0.25\n")
    batch = ("--batch", tmp_path / "batch.csv", "--seed", 4, "--steps", 1, "-o", tmp_path)
    assert shell.run("generate", drawable.id, *batch).exit_code == 0
    assert (tmp_path / "first.png").read_bytes() == Path(drawn["images"][0]["path"]).read_bytes()
    assert "mix_adapter_id needs mix_weight" in shell.run("generate", drawable.id, *options, "-o", tmp_path).output


def test_images_are_found_marked_and_deleted(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    drawn = shell.json("generate", drawable.id, "fruit", "-n", 2, "--seed", 5, "--steps", 1, "-o", tmp_path)
    first, second = (image["id"] for image in drawn["images"])
    marked = shell.json("images", "update", first, "--favourite", "--label", "the cover")
    assert (marked["favourite"], marked["label"]) == (True, "the cover")
    assert first in shell.text("images", "list", drawable.name, "--favourites", "--class", "fruit")
    assert [row["id"] for row in shell.json("images", "list", "--label", "COVER", "--after", "2020-01-01")] == [first]
    assert second in {row["id"] for row in shell.json("images", "list", drawable.id, "--seed", 6, "--no-favourites")}
    assert shell.json("images", "update", first, "--no-favourite", "--label", "")["label"] is None
    assert shell.run("images", "update", "gen_1").exit_code == shell.run("adapters", "get", "a/b").exit_code
    packed = shell.text("images", "download", first, second, "-o", tmp_path).strip()
    assert Path(packed) == tmp_path / "images.zip"
    names = [f"{id.replace('/', '-')}.png" for id in (first, second)]
    assert zipfile.ZipFile(packed).namelist() == [*names, "metadata.jsonl"]
    assert shell.json("images", "delete", first, "--yes") == {"deleted": [first]}
    assert shell.text("images", "delete", first, "--yes").strip() == "No such image."
    deleted = shell.json("generations", "delete", drawn["id"], "--yes")
    assert shell.json("deletions", "get", deleted["receipt"])["kind"] == "generation"
    assert shell.json("generations", "list", "--class", "fruit", "--before", "2020-01-01") == []
    assert drawn["id"] not in shell.text("generations", "list", drawable.id)


def test_status_and_key_are_shown(shell: Shell) -> None:
    assert shell.json("status")["workers"] == 1
    assert shell.json("status")["api_key"] == "accepted"
    assert "ready" in shell.text("status")
    assert shell.json("whoami")["tenant_name"] == "Client"
    assert "Client" in shell.text("whoami")


def test_base_and_its_settings_are_shown(shell: Shell) -> None:
    base = shell.json("base")
    assert shell.json("base", "--classes") == {"class_names": base["class_names"]}
    assert shell.text("base", "--classes").split("\n")[:-1] == base["class_names"]
    shown = shell.text("base")
    assert base["digest"] in shown
    assert {"sampler", "dpmpp_2m", "learning_rate"} <= set(shown.replace(",", " ").split())


def test_usage_is_shown(shell: Shell, drawable: Drawable) -> None:
    usage = shell.json("usage")
    day = usage["days"][0]["day"]
    assert [row["day"] for row in shell.json("usage", "--from", day, "--to", day)["days"]] == [day]
    assert shell.json("usage", "--to", "2024-12-31")["days"] == []
    assert shell.run("usage", "--to", "tomorrow").exit_code == 2
    shown = shell.text("usage")
    assert all(text in shown for text in ("model evaluations", "queued_generations", day))


def test_status_shows_a_rejected_or_missing_key(server: Server) -> None:
    wrong = Shell(server.url, "dfk_wrong").run("status", "--json")
    assert (wrong.exit_code, json.loads(wrong.stdout)["api_key"]) == (3, "rejected")
    assert Shell(server.url, None).json("status")["api_key"] == "none"


def test_status_of_a_server_with_a_problem_says_nothing_of_the_key(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = {"database": "It does not respond."}
    down = Readiness(status="unavailable", problems=problems, warnings={}, workers=0)
    monkeypatch.setattr(Client, "ready", lambda client: down)
    done = shell.run("status", "--json")
    assert (done.exit_code, json.loads(done.stdout)["api_key"]) == (7, "not checked")


def test_generate_writes_one_file_or_starts_without_waiting(shell: Shell, drawable: Drawable, tmp_path: Path) -> None:
    options = ("fruit", "--steps", 1, "--seed", 9)
    path = tmp_path / "new" / "apple.png"
    assert shell.text("generate", drawable.name, *options, "-o", path).strip() == str(path)
    several = shell.run("generate", drawable.name, *options, "-n", 2, "-o", path)
    assert (several.exit_code, "Name a folder" in several.stderr) == (6, True)
    (tmp_path / "file").write_text("not a folder")
    before = {row["id"] for row in shell.json("generations", "list", drawable.id)}
    assert shell.run("generate", drawable.name, *options, "-o", tmp_path / "file" / "folder").exit_code == 1
    assert {row["id"] for row in shell.json("generations", "list", drawable.id)} == before
    started = shell.json("generate", drawable.name, *options, "--no-wait", "--previews", 1)
    saved = shell.json("generations", "download", started["id"], "-o", tmp_path / "later")
    assert Path(saved["images"][0]["path"]).read_bytes() == path.read_bytes()


def test_interrupted_generate_names_the_generation(server: Server, drawable: Drawable, client: Client) -> None:
    environment = os.environ | {"DIFFFIT_URL": server.url, "DIFFFIT_API_KEY": server.key}
    command = [sys.executable, "-m", "difffit", "generate", drawable.id, "fruit", "-n", "64", "--steps", "1000"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not (waiting := [row for row in client.generations.list(drawable.id, 20) if row.steps == 1000]):
            time.sleep(0.1)
        time.sleep(1.5)  # the command waits for up to a second in the request that starts the generation
        process.send_signal(signal.SIGINT)
        _, notes = process.communicate(timeout=60)
    client.generations.cancel(waiting[0].id)
    assert process.returncode == 130
    assert f"difffit generations cancel {waiting[0].id}" in notes


def test_domain_is_found_by_any_name(shell: Shell, name: str) -> None:
    for own in (f"dom_{name}", f"{name}/a?b", f"Bäume {name}"):
        domain = shell.json("domains", "create", own)
        assert shell.json("domains", "get", own)["id"] == domain["id"]
    assert shell.json("domains", "get", unicodedata.normalize("NFD", own))["id"] == domain["id"]
    assert shell.run("domains", "create", unicodedata.normalize("NFD", own)).exit_code == 5


def test_watch_prints_lines_where_there_is_no_terminal(shell: Shell, drawable: Drawable) -> None:
    done = shell.run("finetunes", "watch", drawable.finetune_id)
    assert "of 3, loss" in done.stderr


def test_address_without_http_is_explained(tmp_path: Path) -> None:
    done = Shell("localhost:8000", "dfk_x").run("status")
    assert (done.exit_code, "Write http:// or https://" in " ".join(done.stderr.split())) == (3, True)


def test_command_of_the_server_package_is_explained_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difffit.cli.app.entry_points", lambda group: [])
    done = CliRunner().invoke(app, ["train", "folder"])
    assert (done.exit_code, "needs the server's packages" in " ".join(done.stderr.replace("│", "").split())) == (
        2,
        True,
    )


def test_admin_manages_tenants_and_keys(admin_shell: Shell, server: Server) -> None:
    quotas = ("--quota", "images_per_day=5", "--quota", "active_finetunes=1")
    tenant = admin_shell.json("admin", "tenants", "create", "By command", "--weight", 2, *quotas)
    assert (tenant["weight"], tenant["quotas"]) == (2, {"images_per_day": 5, "active_finetunes": 1})
    update = ("admin", "tenants", "update", tenant["id"])
    changed = admin_shell.json(*update, "--quota", "webhooks=3", "--quota", "images_per_day=default")
    assert changed["quotas"] == {"active_finetunes": 1, "webhooks": 3}
    removed = admin_shell.json(*update, "--quota", "active_finetunes=default", "--quota", "webhooks=default")
    assert (removed["weight"], removed["quotas"]) == (2, {})
    assert admin_shell.run(*update, "--quota", "images").exit_code == 2
    assert admin_shell.run(*update, "--quota", "images=3").exit_code == 6
    assert tenant["id"] in admin_shell.text("admin", "tenants", "get", "By command")
    assert admin_shell.run("admin", "tenants", "get", "By comman").exit_code == 4
    key = admin_shell.json("admin", "keys", "create", tenant["id"], "laptop", "--read-only")
    assert key["scopes"] == ["read"]
    assert Shell(server.url, key["key"]).json("domains", "list") == []
    assert "laptop" in admin_shell.text("admin", "keys", "list", "By command")
    audited = admin_shell.json("admin", "audit", "--tenant", "By command", "--action", "key.create")
    assert [entry["target"] for entry in audited] == [key["id"]]
    assert "127.0.0.1" in admin_shell.text("admin", "audit", "--key", audited[0]["actor_key_id"], "--limit", 1)
    assert admin_shell.json("admin", "audit", "--before", "2024-12-31") == []
    assert admin_shell.json("admin", "keys", "update", key["id"], "--expires-in-days", 3)["expires_at"]
    assert admin_shell.json("admin", "keys", "update", key["id"], "--never-expires")["expires_at"] is None
    colleague = admin_shell.json("admin", "keys", "create-admin", "Ada", "--expires-in-days", 1)
    assert "Ada" in Shell(server.url, colleague["key"]).text("admin", "keys", "list")
    admin_shell.json("admin", "keys", "revoke", colleague["id"], "--yes")
    rotate = ("admin", "keys", "rotate", key["id"], "--overlap", 60)
    assert admin_shell.json(*rotate, "--expires-in-days", 3)["expires_at"]
    assert admin_shell.json(*rotate, "--never-expires")["expires_at"] is None
    assert admin_shell.run(*rotate, "--never-expires", "--expires-in-days", 3).exit_code == 2
    rotated = admin_shell.json(*rotate)
    assert Shell(server.url, rotated["key"]).json("domains", "list") == []
    assert admin_shell.json("admin", "keys", "revoke", rotated["id"], "--yes") == {"revoked": rotated["id"]}
    assert tenant["id"] in admin_shell.text("admin", "tenants", "list")
    assert len(admin_shell.json("admin", "tenants", "list")) >= 2
    assert [row["id"] for row in admin_shell.json("admin", "tenants", "list", "--name", "Y COMM")] == [tenant["id"]]
    deleted = admin_shell.json("admin", "tenants", "delete", tenant["id"], "--yes")
    assert deleted["deleted"] == tenant["id"]
    assert deleted["receipt"] in {row["id"] for row in admin_shell.json("admin", "deletions")}


@pytest.mark.parametrize("what", ["adapters", "queues", "workers", "usage", "audit"])
def test_admin_lists_are_not_empty(admin_shell: Shell, drawable: Drawable, what: str) -> None:
    assert admin_shell.json("admin", what)
    assert len(admin_shell.text("admin", what).splitlines()) >= 3


def test_admin_sees_which_workers_are_healthy(admin_shell: Shell) -> None:
    shown = admin_shell.text("admin", "workers")
    assert "healthy" in shown
    assert "problem" in shown


def test_admin_sees_the_usage_of_a_period(admin_shell: Shell, drawable: Drawable) -> None:
    day = admin_shell.json("admin", "usage")[0]["day"]
    period = admin_shell.json("admin", "usage", "--from", day, "--to", day)
    assert {row["day"] for row in period} == {day}
    assert admin_shell.json("admin", "usage", "--to", "2024-12-31") == []


def test_login_file_is_private_and_its_key_stays_with_its_address(server: Server, tmp_path: Path) -> None:
    anywhere = Shell("http://127.0.0.1:1", None)
    done = anywhere.run("login", "--url", f"{server.url}/", typed=f"{server.key}\n")
    assert done.exit_code == 0, done.output
    assert server.key not in done.output
    path = tmp_path / "configuration" / "config.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    named = anywhere.run("--profile", "admin", "login", "--url", server.url, typed=f"{ADMIN}\n")
    assert named.exit_code == 0, named.output
    stored = Shell(server.url, None)
    assert stored.json("usage")["images"] >= 0
    assert stored.json("--profile", "admin", "admin", "workers")
    assert stored.run("admin", "workers").exit_code == 3
    # A stored key is used only for the URL that it was stored with.
    elsewhere = anywhere.run("domains", "list")
    assert elsewhere.exit_code == 3
    assert stored.json("logout") == {"profile": "default", "forgotten": True}
    assert stored.run("domains", "list").exit_code == 3
    assert stored.run("--profile", "other", "domains", "list").exit_code == 3
    assert "There is no profile" in stored.text("logout")


def test_login_to_a_new_profile_asks_for_the_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFFIT_PROFILE", "new")
    shell = Shell(server.url, None)
    done = shell.run("login", typed=f"{server.url}\n{server.key}\n")
    assert done.exit_code == 0, done.output
    assert shell.json("usage")["images"] >= 0


def test_wrong_key_or_address_is_not_stored(server: Server, tmp_path: Path) -> None:
    shell = Shell(server.url, None)
    assert shell.run("login", "--url", server.url, typed="dfk_wrong\n").exit_code == 3
    assert shell.run("login", "--url", f"http://127.0.0.1:{services.free_port()}", typed="x\n").exit_code == 7
    assert not (tmp_path / "configuration").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["domains", "get", "dom_nothing"], 4, "Not found"),
        (["domains", "get", "Nothing by this name"], 4, "Nothing by this name"),
        (["domains", "create", "Line drawings"], 5, "Choose another name"),
        (["generate", "Line drawings", "car", "--steps", "1"], 6, "Its classes are: fruit, smiling-face"),
        (["generate", "Line drawings", "--count", "1000"], 6, "body.count"),
        (["generate", "Line drawings", "fruit", "--sampler", "euler"], 2, "euler"),
        (["finetunes", "start"], 2, "DOMAIN"),
        (["datasets", "upload", "Line drawings", "no such folder"], 2, "does not exist"),
        (["admin", "workers"], 3, "An administrator's"),
        (["inspect", __file__], 6, "not a PNG"),
        (["domain"], 2, "No such command"),
    ],
)
def test_failed_command_explains_itself_and_sets_the_exit_code(
    shell: Shell, drawable: Drawable, words: list[str], code: int, message: str
) -> None:
    done = shell.run(*words)
    assert done.exit_code == code, done.output
    assert message.lower() in " ".join(done.stderr.replace("│", "").split()).lower()
    assert done.stdout == ""


def test_json_option_prints_errors_as_json(shell: Shell, drawable: Drawable) -> None:
    done = shell.run("generations", "get", "gen_nothing", "--json")
    assert (done.exit_code, done.stdout) == (4, "")
    error = json.loads(done.stderr)
    assert (error["code"], error["status"], bool(error["request_id"])) == ("not_found", 404, True)
    done = shell.run("generate", drawable.id, "--count", "0", "--steps", "0", "--json")
    assert len(json.loads(done.stderr)["errors"]) > 1


def test_hint_names_the_next_command(shell: Shell, name: str) -> None:
    shell.text("domains", "create", name)
    done = shell.run("generate", name, "fruit")
    assert done.exit_code == 5
    assert "difffit finetunes start" in done.stderr
    done = shell.run("finetunes", "start", name)
    assert done.exit_code == 6
    assert "difffit datasets upload" in done.stderr


def test_folder_with_a_label_file_becomes_a_dataset(shell: Shell, name: str, drawings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    lines = ["file_name,label"]
    for path in drawings.rglob("*.png"):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
        lines.append(f"{path.parent.name}-{path.name},{path.parent.name}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    shell.text("domains", "create", name)
    dataset = shell.json("datasets", "upload", name, folder)
    assert [(row["name"], row["images"]) for row in dataset["classes"]] == [("fruit", 4), ("smiling-face", 4)]
    assert "labels_read" in [warning["code"] for warning in dataset["report"]["warnings"]]


def test_rejected_dataset_fails_and_lists_each_file(shell: Shell, name: str, tmp_path: Path) -> None:
    (tmp_path / "set" / "class").mkdir(parents=True)
    for number in range(2):
        (tmp_path / "set" / "class" / f"{number}.png").write_bytes(b"not an image")
    shell.text("domains", "create", name)
    done = shell.run("datasets", "upload", name, tmp_path / "set")
    assert done.exit_code == 1
    assert "class/0.png" in done.stderr
    assert "class/1.png" in done.stderr


@pytest.mark.parametrize("verb", ["watch", "events"])
def test_interrupting_a_watch_leaves_the_finetune_running(
    server: Server, client: Client, drawable: Drawable, verb: str
) -> None:
    finetune = client.finetunes.start(drawable.id, drawable.dataset_id, steps=100_000, batch_size=1)
    environment = os.environ | {"DIFFFIT_URL": server.url, "DIFFFIT_API_KEY": server.key}
    command = [sys.executable, "-m", "difffit", "finetunes", verb, finetune.id]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout if verb == "events" else process.stderr).readline()
        process.send_signal(signal.SIGINT)
        _, notes = process.communicate(timeout=30)
    assert process.returncode == 130
    assert verb == "events" or f"difffit finetunes cancel {finetune.id}" in notes
    assert client.finetunes.get(finetune.id).status in {"queued", "running"}
    client.finetunes.cancel(finetune.id)


def test_unreachable_server_gives_exit_code_7_and_a_hint(tmp_path: Path) -> None:
    shell = Shell(f"http://127.0.0.1:{services.free_port()}", "dfk_x")
    done = shell.run("status")
    assert done.exit_code == 7
    assert "Check that the server is running" in done.stderr


def test_shell_completion_lists_matching_commands() -> None:
    environment = os.environ | {"_DIFFFIT_COMPLETE": "complete_bash", "COMP_WORDS": "difffit data", "COMP_CWORD": "1"}
    command = [str(Path(sys.executable).parent / "difffit")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["datasets"]


def test_every_command_takes_json_and_has_help() -> None:
    from typer.main import get_command

    def walk(entry: Any, words: tuple[str, ...]) -> None:
        if hasattr(entry, "commands"):
            for name, inner in entry.commands.items():
                walk(inner, (*words, name))
        else:
            assert "json" in [parameter.name for parameter in entry.params], words
            assert entry.help, words

    walk(get_command(app), ())
    assert CliRunner().invoke(app, ["--version"]).stdout == "0.1.0\n"
    assert "domains" in CliRunner().invoke(app, []).stdout
    assert "domains" in CliRunner().invoke(app, ["-h"]).stdout
    assert "--limit" in CliRunner().invoke(app, ["domains", "list", "-h"]).stdout
