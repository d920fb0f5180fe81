"""Pages for visitors without a session. They are plain HTML, of which the server keeps nothing: a page of NiceGUI stays
in its memory for a minute after it was sent, and for ten after it was shown, so strangers could fill the memory."""

from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from api.dashboard.texts import plain_page, tr
from api.dashboard.user import theme_of
from api.headers import page_policy

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
)
_TEMPLATES.globals["tr"] = tr


def plain(request: Request, name: str, title: str, status_code: int = 200, **values: Any) -> HTMLResponse:
    """Returns the page of a template in `templates/`, in the language and colours that the browser asks for. `title`
    and `values` are shown as text, and `title` is translated."""
    with plain_page(request) as catalogue:
        content = _TEMPLATES.get_template(name).render(
            language=catalogue.quasar,
            nonce=request.state.nonce,
            root=request.scope.get("root_path", ""),
            theme=theme_of(request),
            title=tr(title),
            **values,
        )
    policy = page_policy(f"'nonce-{request.state.nonce}'")
    return HTMLResponse(content, status_code, {"Content-Security-Policy": policy})
