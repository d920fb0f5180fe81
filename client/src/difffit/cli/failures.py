"""Reports errors to people and scripts: what happened, what to do next, and an exit code."""

import json
from typing import Any

from rich.console import Console
from rich.text import Text

FAILED, SIGN_IN, NOT_FOUND, CONFLICT, INVALID, LATER, INTERRUPTED = 1, 3, 4, 5, 6, 7, 130
EXIT_CODES = (
    "Exit codes: 0 done; 1 the job failed; 2 wrong usage; 3 not signed in or not allowed; 4 not found; 5 conflict "
    "with the current state; 6 invalid input; 7 server not reachable, overloaded or too slow: try again later; 130 "
    "interrupted or declined."
)

_HINTS = {
    "unauthenticated": "Sign in with `difffit login`, or set DIFFFIT_API_KEY.",
    "forbidden": "Use another key with `difffit --profile NAME`. The admin commands need an administrator's key.",
    "no_active_adapter": "Train an adapter with `difffit finetunes start DOMAIN --watch`.",
    "base_mismatch": "Train the domain again with `difffit finetunes start DOMAIN --watch`. Its data set is stored.",
    "dataset_not_ready": "See the progress of its checks with `difffit datasets get ID`.",
    "adapter_quarantined": "Choose another version from `difffit adapters list DOMAIN`.",
}


def exit_code(error: Exception) -> int | None:
    """Returns the command's exit code for an exception, or None for an unexpected exception, which is a bug and keeps
    its traceback."""
    from difffit import errors

    status = getattr(error, "status", 0) if isinstance(error, errors.DiffFitError) else 0
    if status:  # an error of the API, or of a command that runs without a server
        return _status_code(status)
    if isinstance(error, errors.NotConfigured):
        return SIGN_IN
    if isinstance(error, (errors.ConnectionFailed, errors.WaitTimeout)):
        return LATER
    if isinstance(error, errors.InvalidInput):
        return INVALID
    return FAILED if isinstance(error, (errors.DiffFitError, OSError)) else None


def render(console: Console, error: Exception, *, as_json: bool) -> None:
    """Prints the error's title, detail, invalid fields and a hint, or all of them as one line of JSON."""
    report = _report(error)
    if as_json:
        console.file.write(json.dumps(report, ensure_ascii=False) + "\n")
        return
    console.print(Text.assemble((f"{report['title']}. ", "bold red"), report["detail"]), soft_wrap=True)
    for entry in report["errors"]:
        place = entry.get("field") or entry.get("file")
        console.print(Text(f"  {place}: {entry.get('detail')}"), soft_wrap=True)
    if report["hint"]:
        console.print(Text(report["hint"]), soft_wrap=True)
    if report["request_id"] and report["status"] >= 500:
        console.print(Text(f"Request {report['request_id']}", "dim"))


def _report(error: Exception) -> dict[str, Any]:
    fields = getattr(error, "errors", [])
    code = getattr(error, "code", type(error).__name__)
    return {
        "title": getattr(error, "title", "Invalid"),
        "status": getattr(error, "status", 0),
        "code": code,
        "detail": getattr(error, "detail", None) or str(error),
        "errors": fields if len(fields) > 1 else [],  # a single invalid field is already named in `detail`
        "hint": _HINTS.get(
            code,
            "Check that the server is running, or store another address with `difffit login`." if _lost(error) else "",
        ),
        "request_id": getattr(error, "request_id", ""),
    }


def _lost(error: Exception) -> bool:
    from difffit.errors import ConnectionFailed

    return isinstance(error, ConnectionFailed)


def _status_code(status: int) -> int:
    codes = {401: SIGN_IN, 403: SIGN_IN, 404: NOT_FOUND, 409: CONFLICT, 429: LATER}
    return codes.get(status, LATER if status >= 500 else INVALID)
