"""Upload of a data set from a browser: packs the files into a zip and streams the zip to the API, without storing it in
memory or on disk."""

import secrets
import zipfile
from collections.abc import AsyncIterator
from typing import IO, Annotated
from urllib.parse import quote

from fastapi import Depends, Request, Response
from fastapi.responses import JSONResponse
from nicegui import app
from nicegui.element import Element
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.dashboard.texts import of_request, tr_all
from api.dashboard.user import User, get_tenant, in_process

_FILES = 50_000
"""Maximum number of files in a form. It is above the API's limit for the files in a zip, so that users get the API's
error message for too many files."""
_HEADER_BYTES = 2**13
"""Maximum size of a header in the form. The header of a file contains its path."""

_TEXTS = {
    "drop": "Drop a folder or a zip here",
    "classes": "One folder of images for each class.",
    "chooseFolder": "Choose a folder",
    "chooseZip": "Choose a zip",
    "folder": "A folder of images",
    "zip": "A zip of images",
    "upload": "Upload",
    "cancel": "Cancel the upload",
    "again": "Try again",
    "wrong": "Not a folder and not a zip",
    "wrongDetail": "Drop a folder that contains one folder per class, or one zip of such a folder.",
    "sending": "Sending",
    "sent": "% sent",
    "checking": "Sent; checking",
    "rejected": "Upload rejected",
    "rejectedDetail": "The server did not accept the upload.",
    "interrupted": "Upload interrupted",
    "interruptedDetail": "The connection broke before all files were sent. Check it, then try again.",
    "cancelled": "Upload cancelled",
    "cancelledDetail": "Nothing was stored.",
}
"""Texts of the area, by the names that its script has for them."""


class Upload(Element, component="assets/upload.js"):
    """Area of a page where users drop the files of a data set. It shows problems of the upload itself, and reloads the
    page after the upload."""

    def __init__(self, domain_id: str) -> None:
        super().__init__()
        self._props["url"] = f"/upload/{domain_id}"
        self._props["texts"] = tr_all(_TEXTS)


@app.post("/upload/{id}", include_in_schema=False)
async def upload(request: Request, id: str, user: Annotated[User, Depends(get_tenant)]) -> Response:
    """Sends a zip, or the files of a folder packed into a zip, to the API, and returns the API's response.

    The session cookie is SameSite=Lax, so browsers do not send it with a form of another site. The client library is
    not used here, since it can only upload files, not streams.
    """
    boundary = secrets.token_hex(16)
    headers = {
        "Authorization": f"Bearer {user.session.key}",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    url = f"{user.api.url}/v1/domains/{quote(id, safe='')}/datasets"
    async with in_process(request, body_bytes=request.state.body_bytes) as http:
        answer = await http.post(url, content=_as_form(_packed(request), boundary), headers=headers)
    if answer.is_success:
        return Response(answer.content, media_type=answer.headers["content-type"])
    problem, language = answer.json(), of_request(request)
    told = language.problem(problem["code"], problem["detail"])
    if told != problem["detail"]:
        problem |= {"title": language.texts[_TEXTS["rejected"]], "detail": told}
    return JSONResponse(problem, answer.status_code)


async def _as_form(file: AsyncIterator[bytes], boundary: str) -> AsyncIterator[bytes]:
    """Yields the multipart form in which the API takes a data set, with the bytes of the zip as its only field."""
    yield f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="images.zip"\r\n\r\n'.encode()
    async for piece in file:
        yield piece
    yield f"\r\n--{boundary}--\r\n".encode()


async def _packed(request: Request) -> AsyncIterator[bytes]:
    """Yields the bytes of a zip with the files of the browser's form, while they arrive. Raises FormParserError."""
    _, options = parse_options_header(request.headers.get("content-type", ""))
    packer = _Packer(options.get(b"boundary", b""))
    async for piece in request.stream():
        packer.parser.write(piece)
        yield packer.take()
    packer.parser.finalize()
    packer.close()
    yield packer.take()


class _Packer:
    """Packs the files of a multipart form into a zip, chunk by chunk. If the form contains only a zip, the output is
    that zip, unchanged.

    The files are packed without compression, since images are already compressed.
    """

    def __init__(self, boundary: bytes) -> None:
        self.parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._open,
                "on_part_data": self._write,
                "on_part_end": self._end,
            },
        )
        self._out = bytearray()
        self._archive: zipfile.ZipFile | None = None
        self._target: IO[bytes] | _Packer = self
        self._files = 0

    def take(self) -> bytes:
        """Returns the bytes of the zip that were written since the last call."""
        piece = bytes(self._out)
        self._out.clear()
        return piece

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def write(self, data: bytes) -> int:
        """Adds bytes of the zip to the output. ZipFile calls it as the `write` of a file that cannot seek."""
        self._out += data
        return len(data)

    def flush(self) -> None:
        """Does nothing. ZipFile requires its file to have this method."""

    def _begin(self) -> None:
        self._name, self._value, self._disposition = b"", b"", b""
        self._files += 1
        if self._files > _FILES:
            raise FormParserError(f"The form contains more than {_FILES:,} files. Send a zip instead.")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._bound()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._bound()

    def _bound(self) -> None:
        if len(self._name) + len(self._value) > _HEADER_BYTES:
            raise FormParserError(f"The path of a file is longer than {_HEADER_BYTES:,} bytes. Shorten it.")

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def _open(self) -> None:
        path = parse_options_header(self._disposition)[1].get(b"filename", b"").decode(errors="replace") or "unnamed"
        if self._files == 1 and "/" not in path and path.lower().endswith(".zip"):
            return
        if self._archive is None:
            if self._files > 1:
                raise FormParserError(
                    "The form contains a zip and other files. Send either one zip or the files of a folder."
                )
            self._archive = zipfile.ZipFile(self, "w", zipfile.ZIP_STORED)
        self._target = self._archive.open(path, "w")

    def _write(self, data: bytes, start: int, end: int) -> None:
        self._target.write(data[start:end])

    def _end(self) -> None:
        if self._target is not self:
            self._target.close()  # ends a file in the zip
