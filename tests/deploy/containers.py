"""Containers made by hand from the images that `tests/deploy/images.py` builds, started like compose's services."""

import fcntl
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx

from core.ml.bundled import sample_domain_folder
from tests.deploy.test_compose import OURS, ROOT
from tests.deploy.test_probes import HTTP
from tests.processes import Caller

HIDDEN = ("/root", "/home", "/tmp", str(ROOT))
"""Folders of the machine that an image does not have."""
SECONDS = 300
URL = "http://127.0.0.1:8000"


def start(folder: Path) -> None:
    """Starts the profile `embedded` in separate namespaces, uses it, and stops it."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
    settings = subprocess.check_output(["sh", ROOT / "deploy/new-env.sh"], text=True)
    variables = dict(re.findall(r"^(\w+)=(.*)$", settings, re.MULTILINE))
    running = {}
    for name in ("api-embedded", "worker-embedded"):
        container = Container(name, folder, variables)
        assert os.statvfs(container.root).f_flag & os.ST_RDONLY
        running[name] = container.run(OURS[name]["command"])
        wait_until_healthy(container, running[name])
    for probe in HTTP.values():
        httpx.get(f"{URL}{probe['path']}").raise_for_status()
    use(variables["DIFFFIT_ADMIN_KEY"])
    for name, process in reversed(running.items()):
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in {0, -signal.SIGTERM}, name
        print(f"{name}: healthy, used, and stopped", flush=True)


class Container:
    """One of compose's services, running on the overlay of its image."""

    def __init__(self, name: str, folder: Path, variables: dict[str, str]) -> None:
        service = OURS[name]
        image = folder / service["image"]
        config: dict[str, Any] = json.loads((image / "config.json").read_text())
        self.name, self.workdir, self.user = name, config["workdir"], config["user"]
        self.root = mount_root(image)
        self.env = config["env"] | {key: substituted(value, variables) for key, value in service["environment"].items()}
        for volume in service["volumes"]:
            source, target = volume.split(":")
            mount_volume(folder / "volumes" / source, self.root / target.lstrip("/"))
        mount("-o", "remount,ro", str(self.root))

    def run(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Starts a command as the image's user, without capabilities."""
        bounds = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--clear-groups"]
        user = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", *bounds]
        shell = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', self.workdir, *command]
        return subprocess.Popen(["chroot", self.root, *user, *shell], env=self.env)


def substituted(value: str, variables: dict[str, str]) -> str:
    """Returns a value of the compose file with its variables replaced."""
    return re.sub(r"\$\{(\w+):[-?]([^}]*)\}", lambda match: variables.get(match[1]) or match[2], value)


def mount_root(image: Path) -> Path:
    """Mounts an image's layer over the machine's root, and hides what an image does not have."""
    root = image / "root"
    for folder in (root, image / "upper", image / "work"):
        folder.mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir=/,upperdir={image}/upper,workdir={image}/work"
    mount("-t", "overlay", "overlay", "-o", layers, str(root))
    mount("--rbind", "/dev", f"{root}/dev")
    mount("-t", "proc", "proc", f"{root}/proc")
    for hidden in HIDDEN:
        if (root / hidden.lstrip("/")).is_dir():
            mount("-t", "tmpfs", "tmpfs", f"{root}{hidden}")
    return root


def mount_volume(source: Path, target: Path) -> None:
    """Mounts a named volume; a new one gets the owner and mode of the image's folder."""
    if not source.exists():
        source.mkdir(parents=True)
        status = target.stat()
        os.chown(source, status.st_uid, status.st_gid)
        shutil.copymode(target, source)
    mount("--bind", str(source), str(target))


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def wait_until_healthy(container: Container, process: "subprocess.Popen[bytes]") -> None:
    check = OURS[container.name]["healthcheck"]["test"][1:]
    deadline = time.monotonic() + SECONDS
    while container.run(check).wait() != 0:
        assert process.poll() is None, f"{container.name} ended"
        assert time.monotonic() < deadline, f"{container.name} is not healthy"
        time.sleep(1)


def use(key: str) -> None:
    """Uploads a data set and generates an image."""
    with httpx.Client(base_url=URL, timeout=60) as client:
        admin = Caller(client, key)
        tenant = admin.post("/v1/admin/tenants", {"name": "tenant"})
        caller = Caller(client, admin.post(f"/v1/admin/tenants/{tenant['id']}/keys", {"name": "key"})["key"])
        domain = caller.post("/v1/domains", {"name": "domain"})["id"]
        files = {"file": ("images.zip", zipped(sample_domain_folder()))}
        dataset = caller.send("POST", f"/v1/domains/{domain}/datasets", files=files).raise_for_status().json()
        assert caller.wait(f"/v1/datasets/{dataset['id']}", "validating")["status"] == "ready"
        body = {"class_name": "fruit", "adapter_id": "base", "steps": 4}
        generation = caller.post(f"/v1/domains/{domain}/generations", body)
        ended = caller.wait(f"/v1/generations/{generation['id']}", "queued", "running")
        assert ended["status"] == "succeeded", ended


def zipped(folder: Path) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    return data.getvalue()
