"""`make images`: runs the Dockerfiles' commands without docker, and starts the result as compose's profile `embedded`.

Each image is an overlay on this machine's root, with a copy of this Python in the place of the base image's. Its
commands run there by chroot. Then the API and a worker run in it as the image's user, without capabilities, on a
read-only root, with only the loopback network, and with compose's environment, volumes and health checks. They validate
a data set and generate an image. Needs root on Linux, and a Python that is not installed in /usr.
"""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.deploy import containers

ROOT = Path(__file__).parents[2]
IMAGES = {"difffit-api": "api.Dockerfile", "difffit-worker-cpu": "worker.Dockerfile"}
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
NAMESPACES = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]


def main() -> None:
    if os.environ.get("CI") is None and (sys.platform != "linux" or os.geteuid() != 0):
        print("make images needs root on Linux: skipped")
        return
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    module = [sys.executable, "-m", "tests.deploy.images"]
    try:
        for image in IMAGES:
            subprocess.run([*NAMESPACES, *module, "build", image, folder], cwd=ROOT, check=True)
        subprocess.run([*NAMESPACES, "--net", *module, "start", folder], cwd=ROOT, check=True)
    finally:
        shutil.rmtree(folder)


def build(image: str, folder: Path) -> None:
    """Fills `folder/upper` with the image's additions to the machine, and writes `folder/config.json`."""
    copy_python(folder / "upper/usr/local")
    root = containers.mount_root(folder)
    for command in (["ldconfig"], ["python", "-m", "ensurepip", "--default-pip"]):
        subprocess.run(["chroot", root, *command], env={"PATH": PATH}, check=True)
    config = Config({"PATH": PATH}, "/", "0", {k: v for k, v in os.environ.items() if k.startswith("PIP_")})
    for instruction, argument in instructions(ROOT / "deploy/docker" / IMAGES[image]):
        if instruction == "FROM":
            is_backup = argument.endswith(" AS backup")  # needs PostgreSQL's package repository
        if is_backup:
            continue
        print(f"{image}: {instruction} {argument}", flush=True)
        follow(instruction, argument, root, config)
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))


@dataclasses.dataclass
class Config:
    """State that instructions pass to later ones and to the container. `arguments` starts with this machine's pip
    settings, its package index among them."""

    env: dict[str, str]
    workdir: str
    user: str
    arguments: dict[str, str]


def follow(instruction: str, argument: str, root: Path, config: Config) -> None:
    """Executes an instruction in `root`. Raises NotImplementedError for one that no Dockerfile here uses."""
    match instruction:
        case "ARG":
            config.arguments.update(word.split("=", 1) for word in shlex.split(argument))
        case "ENV":
            config.env.update(word.split("=", 1) for word in shlex.split(argument))
        case "WORKDIR":
            config.workdir = argument
            (root / argument.lstrip("/")).mkdir(parents=True)
        case "COPY":
            copy(argument.split(), root / config.workdir.lstrip("/"))
        case "RUN":
            command = ["chroot", root, "/bin/sh", "-c", f"cd {config.workdir} && {argument}"]
            subprocess.run(command, env={**config.arguments, **config.env}, check=True)
        case "USER":
            config.user = argument
        case "FROM" | "EXPOSE" | "VOLUME" | "CMD":
            pass
        case _:
            raise NotImplementedError(instruction)


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """Yields each instruction and its argument, without comments and line breaks. Every stage begins with FROM."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        instruction, _, argument = line.partition(" ")
        yield instruction, argument


def copy_python(local: Path) -> None:
    """Copies this Python and its library to the paths of the official image."""
    prefix, version = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    without = shutil.ignore_patterns("site-packages", "test", "__pycache__")
    shutil.copytree(prefix / "lib" / version, local / "lib" / version, ignore=without, symlinks=True)
    for library in prefix.glob("lib/libpython*"):
        shutil.copy2(library, local / "lib", follow_symlinks=False)
    (local / "bin").mkdir()
    shutil.copy2(prefix / "bin" / version, local / "bin/python")


def copy(words: list[str], workdir: Path) -> None:
    """Copies like COPY: the contents of a folder, or files into one."""
    *sources, target = words
    patterns = [line.removeprefix("**/") for line in (ROOT / ".dockerignore").read_text().split()]
    for source in sources:
        if (ROOT / source).is_dir():
            ignored = shutil.ignore_patterns(*patterns)
            shutil.copytree(ROOT / source, workdir / target, ignore=ignored, dirs_exist_ok=True)
        else:
            shutil.copy2(ROOT / source, workdir / target)


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case ["build", image, where]:
            build(image, Path(where) / image)
        case ["start", where]:
            containers.start(Path(where))
