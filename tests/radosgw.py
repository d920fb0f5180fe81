"""A Ceph object gateway for tests, if its programs are installed; it checks requests more strictly than moto.

It has one monitor, one store in memory and no manager, and needs about 15 seconds to start.
"""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.services import free_port

Process = subprocess.Popen[bytes]
PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "monmaptool", "radosgw-admin", "ceph")


class NotStarted(Exception):
    """Ceph does not start on this machine."""


@dataclass(frozen=True)
class Gateway:
    endpoint: str
    access_key: str
    secret_key: str


def installed() -> bool:
    return all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def radosgw(folder: Path) -> Iterator[Gateway]:
    """Starts the cluster under `folder`. Raises NotStarted, with the end of its logs, if it does not start."""
    port, monitor = free_port(), free_port()
    identity = str(uuid.uuid4())
    config = folder / "ceph.conf"
    config.write_text(_config(folder, identity, monitor, port))
    for name in ("mon", "osd", "run", "rgw"):
        (folder / name).mkdir()
    environment = os.environ | {"CEPH_CONF": str(config)}

    def call(*command: str) -> str:
        try:
            run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise NotStarted(f"{error}: {error.stderr}\n{_logs(folder)}") from error
        return run.stdout

    with ExitStack() as stack:

        def start(*command: str) -> Process:
            log = stack.enter_context((folder / f"{command[0]}.log").open("w"))
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait, 20)
            stack.callback(process.kill)
            return process

        monitor_map = str(folder / "monmap")
        call("monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{monitor}]", "--fsid", identity, monitor_map)
        call("ceph-mon", "-i", "a", "--mkfs", "--monmap", monitor_map, "--mon-data", str(folder / "mon"))
        start("ceph-mon", "-f", "-i", "a", "--mon-data", str(folder / "mon"))
        osd = str(uuid.uuid4())
        call("ceph", "osd", "new", osd)
        call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, "--osd-data", str(folder / "osd"))
        store = partial(start, "ceph-osd", "-f", "-i", "0", "--osd-data", str(folder / "osd"))
        running = [store()]
        start("radosgw", "-f", "-n", "client.rgw")
        endpoint = f"http://127.0.0.1:{port}"

        def keep_store() -> None:
            """Restarts a store that ended with "wrong fsid", which happens if it reaches the monitor too early."""
            if running[-1].poll() is not None:
                running.append(store())

        if not _answers(endpoint, keep_store):
            raise NotStarted(f"no answer on {endpoint}\n{_logs(folder)}")
        # The same keys as for the other S3 server, because boto3 caches the first keys for the life of the process.
        keys = ("--access-key", "test", "--secret-key", "test")
        call("radosgw-admin", "user", "create", "--uid", "difffit", "--display-name", "DiffFit", *keys)
        yield Gateway(endpoint, "test", "test")


def _config(folder: Path, identity: str, monitor: int, port: int) -> str:
    settings = {
        "fsid": identity,
        "mon_host": f"v1:127.0.0.1:{monitor}",
        "ms_bind_msgr2": "false",
        "auth_cluster_required": "none",
        "auth_service_required": "none",
        "auth_client_required": "none",
        "run_dir": folder / "run",
        "admin_socket": "",
        "log_file": "",
        "log_to_stderr": "true",
        "osd_objectstore": "memstore",
        "memstore_device_bytes": 2 * 2**30,
        "osd_pool_default_size": 1,
        "osd_pool_default_min_size": 1,
        "osd_pool_default_pg_num": 4,
        "osd_pool_default_pg_autoscale_mode": "off",
        "mon_allow_pool_size_one": "true",
        "mon_data_avail_warn": 0,
        "mon_data_avail_crit": 0,
        "osd_crush_chooseleaf_type": 0,
        "rgw_data": folder / "rgw",
        "rgw_frontends": f"beast endpoint=127.0.0.1:{port}",
    }
    return "[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items())


def _answers(endpoint: str, keep_store: Callable[[], None], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        keep_store()
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
        else:
            return True
    return False


def _logs(folder: Path) -> str:
    return "\n".join(f"{path.name}: {path.read_text()[-1000:]}" for path in sorted(folder.glob("*.log")))
