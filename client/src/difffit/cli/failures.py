"""Errors for whoever sits at the terminal: what happened, what to do, and a number for scripts."""

import json
from typing import Any

from rich.console import Console
from rich.text import Text

FAILED, SIGN_IN, NOT_FOUND, CONFLICT, INVALID, LATER = 1, 3, 4, 5, 6, 7
EXIT_CODES = (
    "Exit codes: 0 done; 1 the work failed; 2 wrong usage; 3 not signed in or not allowed; 4 not found; 5 in conflict "
    "with how things are; 6 refused as invalid; 7 not reachable, overloaded or not done in time: try later; 130 "
    "interrupted."
)

_HINTS = {
    "unauthenticated": "Sign in with `difffit login`, or set DIFFFIT_API_KEY.",
    "forbidden": "`difffit --profile NAME` uses another key. The admin commands need an administrator's.",
    "no_active_adapter": "`difffit finetunes start DOMAIN --watch` makes one.",
    "base_mismatch": "`difffit finetunes start DOMAIN --watch` trains it again on its kept data set.",
    "dataset_not_ready": "`difffit datasets get ID` shows how its check goes.",
    "adapter_quarantined": "`difffit adapters list DOMAIN` shows the other versions.",
}


def exit_code(error: Exception) -> int | None:
    """None for a defect of the command itself, which should show where it is."""
    from difffit import errors

    if isinstance(error, errors.ApiError):
        return _of_status(error.status)
    if isinstance(error, errors.NotConfigured):
        return SIGN_IN
    if isinstance(error, (errors.ConnectionFailed, errors.WaitTimeout)):
        return LATER
    if isinstance(error, errors.InvalidInput):
        return INVALID
    return FAILED if isinstance(error, (errors.DiffFitError, OSError)) else None


def render(console: Console, error: Exception, *, as_json: bool) -> None:
    """Title, detail, the fields that are wrong, and what to do."""
    about = _about(error)
    if as_json:
        console.file.write(json.dumps(about, ensure_ascii=False) + "\n")
        return
    console.print(Text.assemble((f"{about['title']}. ", "bold red"), about["detail"]), soft_wrap=True)
    for one in about["errors"]:
        place = one.get("field") or one.get("file")
        console.print(Text(f"  {place}: {one.get('detail')}"), soft_wrap=True)
    if about["hint"]:
        console.print(Text(about["hint"]), soft_wrap=True)
    if about["request_id"] and about["status"] >= 500:
        console.print(Text(f"Request {about['request_id']}", "dim"))


def _about(error: Exception) -> dict[str, Any]:
    fields = getattr(error, "errors", [])
    code = getattr(error, "code", type(error).__name__)
    return {
        "title": getattr(error, "title", "Invalid"),
        "status": getattr(error, "status", 0),
        "code": code,
        "detail": getattr(error, "detail", None) or str(error),
        "errors": fields if len(fields) > 1 else [],  # the detail tells of a single one
        "hint": _HINTS.get(code, "Is it running? `difffit login` stores another address." if _lost(error) else ""),
        "request_id": getattr(error, "request_id", ""),
    }


def _lost(error: Exception) -> bool:
    from difffit.errors import ConnectionFailed

    return isinstance(error, ConnectionFailed)


def _of_status(status: int) -> int:
    codes = {401: SIGN_IN, 403: SIGN_IN, 404: NOT_FOUND, 409: CONFLICT, 429: LATER}
    return codes.get(status, LATER if status >= 500 else INVALID)
