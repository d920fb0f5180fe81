"""Upload of a data set from a browser, in parts. The browser packs the files, and sends a part again until it arrives,
so that a lost connection only delays the upload."""

import re
from typing import Annotated
from urllib.parse import quote

from fastapi import Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from nicegui import app
from nicegui.element import Element

from api.dashboard import words
from api.dashboard.texts import of_request, tr, tr_all
from api.dashboard.user import User, get_tenant, in_process
from api.deps import Services

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
    "large": "Folder too large",
    "unreadable": "Files cannot be read",
    "unreadableDetail": "They were changed or moved since you chose them. Choose them again.",
    "stay": "Keep this page open until the upload has ended; otherwise nothing is stored.",
    "reading": "Reading the files",
    "sending": "Sending",
    "sent": "% sent",
    "checking": "Sent; checking",
    "waiting": "The connection is interrupted. The upload continues when it is back.",
    "signedOut": "You have been signed out. Sign in in another tab; the upload then continues.",
    "signIn": "Sign in in another tab",
    "rejected": "Upload rejected",
    "rejectedDetail": "The server did not accept the upload.",
    "cancelled": "Upload cancelled",
    "cancelledDetail": "Nothing was stored.",
}
"""Texts of the area, by the names that its script has for them."""
_ROUTES = re.compile(r"POST |(GET \w+)|(PUT \w+/parts/\d+)|(POST \w+/complete)|(DELETE \w+)")
"""Methods and paths that are passed on, relative to the API's route of multipart uploads."""
_MOST_FILES, _MOST_BYTES = 65_000, 4 * 10**9
"""Limits of the zips that the script packs. A zip with more of either needs another format."""
_PASSED_ON = ("Content-Type", "Content-Length", "Idempotency-Key")


class Upload(Element, component="assets/upload.js"):
    """Area of a page where users drop the files of a data set. It shows problems of the upload itself, and reloads the
    page after the upload. It rejects folders above the service's limits, before it reads them."""

    def __init__(self, domain_id: str) -> None:
        super().__init__()
        services: Services = app.state.main.state.services
        files = min(services.settings.max_archive_members, _MOST_FILES)
        size = min(services.settings.max_multipart_bytes, _MOST_BYTES)
        large = tr(
            "A folder may have up to {files:,} files and {size}. Upload a part of it.",
            files=files,
            size=words.size(size),
        )
        self._props["url"] = f"/upload/{domain_id}/"
        self._props["texts"] = tr_all(_TEXTS) | {"largeDetail": large}
        self._props["max-files"], self._props["max-bytes"] = files, size


def _signed_in(request: Request) -> User:
    """Returns the signed-in tenant. Raises HTTPException with status 401, since a script could not tell a redirect to
    the sign-in page from success."""
    try:
        return get_tenant(request)
    except HTTPException as error:
        raise HTTPException(401) from error


@app.api_route("/upload/{id}/{path:path}", methods=["GET", "POST", "PUT", "DELETE"], include_in_schema=False)
async def upload(request: Request, id: str, path: str, user: Annotated[User, Depends(_signed_in)]) -> Response:
    """Passes a request on to the API's multipart uploads, with the key of the session, and returns the response.

    The session cookie is SameSite=Lax, so browsers do not send it with a request of another site. The browser has no
    key, so that it cannot use the API itself.
    """
    if not _ROUTES.fullmatch(f"{request.method} {path}"):
        raise HTTPException(404)
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    headers["Authorization"] = f"Bearer {user.session.key}"
    url = f"{user.api.url}/v1/domains/{quote(id, safe='')}/datasets/uploads/{path}".removesuffix("/")
    async with in_process(request, body_bytes=request.state.body_bytes) as http:
        answer = await http.request(request.method, url, content=request.stream(), headers=headers)
    if not answer.is_success:
        problem, language = answer.json(), of_request(request)
        told = language.problem(problem["code"], problem["detail"])
        if told != problem["detail"]:
            problem |= {"title": language.texts[_TEXTS["rejected"]], "detail": told}
        return JSONResponse(problem, answer.status_code)
    kept = {name: answer.headers[name] for name in ("Content-Type", "ETag") if name in answer.headers}
    return Response(answer.content, answer.status_code, kept)
