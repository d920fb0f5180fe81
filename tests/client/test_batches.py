"""Requests for images in a file, one per line: reading it, running it, and resuming it."""

import json
from pathlib import Path
from typing import Any

import pytest

from difffit import Client, errors, read_settings
from difffit.batches import read_batch
from tests.client.conftest import Drawable, Server
from tests.client.test_commands import Shell


def written(folder: Path, name: str, *lines: str) -> Path:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def read(folder: Path, name: str, *lines: str, **common: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(request.name, request.settings) for request in read_batch(written(folder, name, *lines), common)]


def test_csv_and_json_lines_give_the_same_requests(tmp_path: Path) -> None:
    first = {"class_name": "7", "count": 2, "eta": 0.5, "guidance_interval": [200, 800], "adapter_id": "base"}
    csv = (
        "\ufeffname,class_name,count,eta,guidance_interval,adapter_id",
        'hero,7,2,0.5,"[200, 800]",base',
        "",
        ",a b,,,,",
    )
    json_lines = (
        json.dumps({"name": "hero", **first}),
        "",
        "",
        '{"class_name": "a b"}',
    )
    expected = [("hero", first), ("0004", {"class_name": "a b"})]
    assert read(tmp_path, "a.csv", *csv) == expected
    assert read(tmp_path, "a.jsonl", *json_lines) == expected


def test_options_apply_to_lines_without_them(tmp_path: Path) -> None:
    lines = ('{"class_id": 1}', '{"class_name": "heart", "steps": 9}', "{}")
    settings = [settings for _, settings in read(tmp_path, "a.jsonl", *lines, class_name="fruit", steps=5)]
    assert settings == [
        {"class_id": 1, "steps": 5}, {"class_name": "heart", "steps": 9}, {"class_name": "fruit", "steps": 5}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "lines", "problem"),
    [
        ("a.csv", ["class_name,colour", "fruit,red"], "Line 2 has 'colour'"),
        ("a.csv", ["class_name,count", "fruit,two"], "Line 2: count is 'two'"),
        ("a.csv", ["class_name", "fruit,1"], "Line 2 has more cells"),
        ("a.csv", ["class_name", '"fruit'], "is not CSV"),
        ("a.csv", ["class_name"], "has no requests"),
        ("a.jsonl", ["{}", "[1]"], "Line 2 is not a JSON object"),
        ("a.jsonl", ["{"], "Line 1 is not JSON"),
        ("a.jsonl", ['{"name": "../x"}'], "cannot be the name of a file"),
        ("a.jsonl", ['{"name": "a", "count": 2}', '{"name": "a-1"}'], "Lines 1 and 2 would both write a-1.png"),
    ],
)
def test_mistakes_name_their_line(tmp_path: Path, name: str, lines: list[str], problem: str) -> None:
    with pytest.raises(errors.InvalidInput, match=problem):
        read(tmp_path, name, *lines)


def test_batch_is_run_and_resumed(server: Server, client: Client, drawable: Drawable, tmp_path: Path) -> None:
    shell, folder = Shell(server.url, server.key), tmp_path / "images"
    lines = ["name,class_name,count", "pair,fruit,2", "face,smiling-face,", "none,banana,", ",fruit,"]
    file = written(tmp_path, "requests.csv", *lines)
    command = ("generate", drawable.name, "--batch", file, "--steps", 1, "-o", folder)
    done = shell.run(*command, "--json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    names = ["pair-1.png", "pair-2.png", "face.png", "0005.png"]
    assert [Path(path).name for path in result["images"]] == names
    assert [(row["line"], row["name"], row["code"]) for row in result["failed"]] == [(4, "none", "unknown_class")]
    images = {name: (folder / name).read_bytes() for name in names}
    seeds = [read_settings(images[name])["seed"] for name in names]
    assert seeds[1] == seeds[0] + 1
    assert read_settings(images["face.png"])["class"] == "smiling-face"

    (folder / "face.png").unlink()
    written(tmp_path, "requests.csv", *lines[:3], "last,fruit,", lines[4])
    before = {row.id for row in client.generations.list(drawable.id)}
    assert shell.text(*command).splitlines() == [str(folder / name) for name in (*names[:3], "last.png", "0005.png")]
    assert {name: (folder / name).read_bytes() for name in names} == images, "random seeds stay"
    started = {row.id for row in client.generations.list(drawable.id)} - before
    assert len(started) == 1, "only the new request is started"


def test_images_of_a_deleted_generation_are_made_again(
    server: Server, client: Client, drawable: Drawable, tmp_path: Path
) -> None:
    shell = Shell(server.url, server.key)
    file = written(tmp_path, "requests.jsonl", '{"name": "a", "class_name": "fruit", "seed": 3, "steps": 1}')
    command = ("generate", drawable.name, "--batch", file, "-o", tmp_path)
    shell.text(*command)
    image = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").unlink()
    client.generations.delete(next(iter(client.generations.list(drawable.id))).id)
    shell.text(*command)
    assert (tmp_path / "a.png").read_bytes() == image


def test_batch_names_at_most_one_class_and_waits(drawable: Drawable, server: Server, tmp_path: Path) -> None:
    shell, file = Shell(server.url, server.key), written(tmp_path, "requests.jsonl", "{}")
    for words in (("fruit", "smiling-face"), ("fruit", "--no-wait")):
        assert shell.run("generate", drawable.name, *words, "--batch", file, "-o", tmp_path).exit_code == 6


def test_several_classes_are_generated_with_the_same_seeds(server: Server, drawable: Drawable, tmp_path: Path) -> None:
    shell = Shell(server.url, server.key)
    words = ("generate", drawable.name, "fruit", "smiling-face", "-n", 2, "--seed", 3, "--steps", 1)
    drawn = shell.json(*words, "-o", tmp_path)
    assert [(row["class_name"], row["seed"]) for row in drawn] == [("fruit", 3), ("smiling-face", 3)]
    names = ["fruit-3.png", "fruit-4.png", "smiling-face-3.png", "smiling-face-4.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    started = shell.json(*words, "--no-wait")
    assert [row["class_name"] for row in started] == ["fruit", "smiling-face"]


def test_sdk_starts_a_batch_with_counts(client: Client, drawable: Drawable) -> None:
    started = client.generations.create_batch(drawable.id, {"fruit": 2, "smiling-face": 1}, steps=1, prefer_wait=30)
    assert [(row.class_name, len(row.images), row.status) for row in started] == [
        ("fruit", 2, "succeeded"), ("smiling-face", 1, "succeeded")
    ]  # fmt: skip
    assert len({row.seed for row in started}) == 1
