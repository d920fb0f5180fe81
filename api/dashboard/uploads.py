"""From a browser's files to the contract's zip."""

import tempfile
import zipfile
from collections.abc import Sequence
from typing import IO, Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from nicegui import app, ui
from nicegui.element import Element
from starlette.datastructures import UploadFile

from api.dashboard.contract import ProblemError
from api.dashboard.user import User, get_tenant
from api.schemas.common import Problem
from api.schemas.datasets import DatasetOut

_FILES = 50_000
"""More than the contract takes in a zip, which then says so."""


class Upload(Element, component="assets/upload.js"):
    """Where a data set of a domain is dropped; the page is loaded again when it has arrived."""

    def __init__(self, domain_id: str) -> None:
        super().__init__()
        self._props["url"] = f"/upload/{domain_id}"
        self.on("uploaded", ui.navigate.reload)
        self.on("refused", lambda event: _tell(event.args))


def _tell(problem: dict[str, Any]) -> None:
    raise ProblemError(
        Problem(
            type=problem.get("type", "about:blank"),
            title=str(problem.get("title", "The upload was refused")),
            status=int(problem.get("status", 0)),
            detail=str(problem.get("detail", "Try again.")),
            code=str(problem.get("code", "unknown")),
            request_id=str(problem.get("request_id", "")),
            errors=None,
        )
    )


@app.post("/upload/{id}", include_in_schema=False)
async def upload(request: Request, id: str, user: Annotated[User, Depends(get_tenant)]) -> JSONResponse:
    """One zip, or the files of a folder by their paths. The cookie is not sent with another site's requests."""
    async with request.form(max_files=_FILES) as form:
        files = [one for one in form.getlist("files") if isinstance(one, UploadFile)]
        with tempfile.TemporaryFile() as packed:
            is_zip = len(files) == 1 and (files[0].filename or "").lower().endswith(".zip")
            source = files[0].file if is_zip else await run_in_threadpool(_pack, files, packed)
            sent = {"file": ("images.zip", source, "application/zip")}
            try:
                dataset = await user.contract.post(f"/v1/domains/{id}/datasets", DatasetOut, files=sent)
            except ProblemError as error:
                return JSONResponse(error.problem.model_dump(), error.problem.status)
    return JSONResponse({"id": dataset.id})


def _pack(files: Sequence[UploadFile], target: IO[bytes]) -> IO[bytes]:
    """Images are compressed already: they are only put together."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            with archive.open(file.filename or "unnamed", "w") as member:
                while chunk := file.file.read(2**20):
                    member.write(chunk)
    target.seek(0)
    return target
