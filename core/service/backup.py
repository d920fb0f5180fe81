"""Saves and restores the database and all stored objects, each checked by its SHA-256:
`python -m core.service.backup save FOLDER` and `python -m core.service.backup restore FOLDER`.

The database is saved before the objects, so that the backup includes every object that a saved database row references.
Objects stored after that have no row in the backup; after a restore, workers delete them as orphans. PostgreSQL needs
its programs `pg_dump` and `pg_restore`, of the server's version or later. Restoring needs an empty database with the
service's roles, and an empty object store.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import inspect, select
from sqlalchemy.engine import make_url

from core.artifact.errors import CoreError, NotFound
from core.service.config import Settings, get_settings
from core.service.db.models import Adapter, Dataset, Finetune, GenerationImage, GenerationPreview
from core.service.db.session import Database
from core.service.storage import ObjectStore, open_store
from core.service.storage.objects import file_digest, verify
from core.service.tenancy import SYSTEM

_NAMED = (
    select(Adapter.object_key, Adapter.sha256).where(Adapter.status == "ready"),
    select(Dataset.archive_key, Dataset.archive_sha256),
    select(Finetune.checkpoint_key, Finetune.checkpoint_sha256),
    select(Finetune.previous_checkpoint_key, Finetune.previous_checkpoint_sha256),
    select(GenerationImage.object_key, GenerationImage.sha256),
    select(GenerationPreview.object_key, GenerationPreview.sha256),
)
"""Queries for the storage keys and SHA-256 of the objects that database rows reference: a backup must contain them."""


class BackupFailed(CoreError):
    code, title = "backup_failed", "Backup failed"


def save(settings: Settings, folder: Path) -> dict[str, str]:
    """Writes a backup into a new folder. Returns the SHA-256 of each saved object by its storage key.

    Raises BackupFailed, StorageUnavailable, DatabaseUnavailable.
    """
    folder.mkdir(parents=True)
    database, store = Database(settings.owner_database_url, SYSTEM), open_store(settings)
    before = _named(database)
    (_save_sqlite if settings.embedded else _save_postgresql)(settings.owner_database_url, folder)
    objects: dict[str, str] = {}
    for key in store.list(""):
        path = folder / "objects" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            store.download(key, path, before.get(key))
        except NotFound:  # deleted since it was listed, with its row
            continue
        objects[key] = _digest(path)
    still = before.items() & _named(database).items()
    database.dispose()
    if missing := [key for key, _ in still if key not in objects]:
        raise BackupFailed(f"{len(missing)} objects that rows name are not in the store: {', '.join(missing[:5])}.")
    # Written last: a folder without it is not a complete backup.
    (folder / "objects.json").write_text(json.dumps(objects, indent=0, sort_keys=True) + "\n")
    return objects


def restore(settings: Settings, folder: Path) -> dict[str, str]:
    """Restores a backup into an empty database and an empty object store. Returns the SHA-256 of each restored object
    by its storage key. Restores objects before the database, since rows must not reference missing objects.

    Raises BackupFailed, ChecksumMismatch, StorageUnavailable, DatabaseUnavailable.
    """
    if not (folder / "objects.json").is_file():
        raise BackupFailed(f"'{folder}' contains no complete backup: objects.json is missing.")
    objects: dict[str, str] = json.loads((folder / "objects.json").read_text())
    store = open_store(settings)
    _demand_emptiness(settings, store)
    for key, sha256 in objects.items():
        with (folder / "objects" / key).open("rb") as file:
            verify(key, store.put_file(key, file).sha256, sha256)
    (_restore_sqlite if settings.embedded else _restore_postgresql)(settings.owner_database_url, folder)
    database = Database(settings.owner_database_url, SYSTEM)
    missing = [key for key in _named(database) if key not in objects]
    database.dispose()
    if missing:
        raise BackupFailed(f"{len(missing)} objects that rows name are not in the backup: {', '.join(missing[:5])}.")
    return objects


def _named(database: Database) -> dict[str, str]:
    with database.session() as session:
        return {key: sha256 for query in _NAMED for key, sha256 in session.execute(query) if key and sha256}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file)[0]


def _demand_emptiness(settings: Settings, store: ObjectStore) -> None:
    if store.list(""):
        raise BackupFailed("The object store is not empty. Restore into an empty one.")
    database = Database(settings.owner_database_url, SYSTEM)
    tables = inspect(database.engine).get_table_names()
    database.dispose()
    if tables:
        raise BackupFailed("The database is not empty. Restore into a new database with the service's roles.")


def _save_sqlite(url: str, folder: Path) -> None:
    _copy_sqlite(Path(make_url(url).database or ""), folder / "database.sqlite")


def _restore_sqlite(url: str, folder: Path) -> None:
    _copy_sqlite(folder / "database.sqlite", Path(make_url(url).database or ""))


def _copy_sqlite(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(target)) as copy:
        original.backup(copy)


def _save_postgresql(url: str, folder: Path) -> None:
    # Row-level security applies to the tables' owner too: `_run` sets `difffit.tenant` so that all rows are dumped.
    _run(url, "pg_dump", "--format=custom", "--enable-row-security", f"--file={folder / 'database.dump'}")


def _restore_postgresql(url: str, folder: Path) -> None:
    """Restores the dump of the database. Row-level security does not hinder this: a dump creates its policies after the
    rows. Owners and privileges come from the target database, not from the dump."""
    options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    _run(url, "pg_restore", *options, str(folder / "database.dump"))


def _run(url: str, program: str, *options: str) -> None:
    """Runs `pg_dump` or `pg_restore` on the database at `url`. Raises BackupFailed when the program is not installed or
    fails."""
    path = shutil.which(program)
    if path is None:
        raise BackupFailed(f"{program} is not installed. Install PostgreSQL's client programs.")
    facts: dict[str, Any] = conninfo_to_dict(url)
    password = str(facts.pop("password", "") or "")  # not on the command line, where every user could see it
    environment = {**os.environ, "PGPASSWORD": password or os.environ.get("PGPASSWORD", "")}
    environment["PGOPTIONS"] = "-c difffit.tenant=*"
    command: Sequence[str] = [path, f"--dbname={make_conninfo(**facts)}", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603  # our own options
    if done.returncode:
        raise BackupFailed(f"{program} failed: {done.stderr.strip()}")


def main() -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m core.service.backup", description=__doc__, formatter_class=text)
    parser.add_argument("what", choices=("save", "restore"))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    os.umask(0o077)  # only the current user may read the backup: it has every tenant's data
    try:
        objects = (save if options.what == "save" else restore)(get_settings(), options.folder)
    except (CoreError, FileExistsError, ValueError) as error:
        sys.exit(f"Failed: {error}")
    print(f"Done: the database and {len(objects)} objects.")


if __name__ == "__main__":
    main()
