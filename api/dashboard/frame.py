"""Frame of every page: header, navigation, error messages."""

import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from copy import copy

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.texts import current, problem, tr
from api.dashboard.user import Answer, User, sessions
from difffit import DiffFitError
from difffit.errors import ApiError, Unauthenticated

TENANT_PAGES = {"Domains": "/domains", "Gallery": "/gallery", "Usage": "/usage", "Webhooks": "/webhooks"}
ADMIN_PAGES = {"Tenants": "/tenants", "Adapters": "/adapters", "Fleet": "/fleet", "Audit": "/audit"}
_RECONNECT_SECONDS = 600
"""Seconds for which the server keeps an open page whose browser is out of reach, such as a laptop with a closed lid."""
_RESPONSE_SECONDS = 30
"""Seconds for which a browser waits for a page while the API's own services are slow."""
_THEMES = {"system": None, "light": False, "dark": True}
_NEXT = {"system": "light", "light": "dark", "dark": "system"}
_SHOWN = {
    "system": ("contrast", "Theme: system"),
    "light": ("light_mode", "Theme: light"),
    "dark": ("dark_mode", "Theme: dark"),
}


def page(path: str) -> ui.page:
    """Decorator for the function of a page at this path. A page keeps what the user has entered while its browser is
    out of reach for some minutes."""
    return ui.page(path, reconnect_timeout=_RECONNECT_SECONDS, response_timeout=_RESPONSE_SECONDS)


@contextmanager
def frame(
    user: User, title: str, *, section: str, crumbs: dict[str, str] | None = None, hint: str = "", tab: str = ""
) -> Iterator[None]:
    """Adds header, navigation and title of a page for signed-in users; the page adds its content inside the context. If
    the API responds with an error there, the page shows the error instead of the remaining content. `tab` is the title
    of the browser's tab, if it is not `title`."""
    look(tab or title, user.theme)
    sessions.add_page(user.session, ui.context.client)
    with kit.box("top", "header"), kit.box("top-row"):
        ui.link("", "/").classes("brand", remove="nicegui-link").props["aria-label"] = tr("DiffFit, start page")
        _navigation(ADMIN_PAGES if user.is_admin else TENANT_PAGES, section)
        with kit.box("account"):
            kit.write(tr("Administrator") if user.is_admin else user.name, "span", "who")
            _theme_switch(user.theme)
            with ui.element("form").props("method=post") as form:
                form.props["action"] = _address("/sign-out")
                kit.button(tr("Sign out"), kind="quiet").props("type=submit")
    with kit.box("content") as main:  # NiceGUI's layout has the page's only <main>
        with kit.box("title"):
            for name, target in (crumbs or {}).items():
                ui.link(tr(name), target).classes("crumb", remove="nicegui-link")
            kit.write(title, "h1")
            if hint:
                kit.muted(hint)
        with showing_problems():
            yield
        with kit.box("foot row spread"):
            kit.write(tr("Times are in {zone}.", zone=words.zone()), "span")
            ui.link(tr("API documentation"), f"{user.api.url}/docs", new_tab=True)
    ui.skip_link(tr("Skip to the content"), target=main)


async def load(
    user: User, answer: Awaitable[Answer], title: str, *, section: str, crumbs: dict[str, str]
) -> Answer | None:
    """Returns an answer of the API that a page needs. If it is an error, shows a page with the error and returns
    None."""
    try:
        return await answer
    except DiffFitError as error:
        with frame(user, title, section=section, crumbs=crumbs):
            show_problem(error)
        return None


def look(title: str, theme: str) -> None:
    """Sets a page's title, language and colours, and shows errors of its event handlers as notifications."""
    client = ui.context.client
    client.page = copy(client.page)  # of this browser alone
    client.page.language = current().quasar
    ui.page_title(f"{title} · DiffFit")
    ui.add_head_html(f'<link rel="stylesheet" href="{_address("/assets/theme.css")}">')
    nonce = ui.context.client.request.state.nonce
    ui.add_head_html(f'<script nonce="{nonce}" src="{_address("/assets/page.js")}"></script>')
    ui.dark_mode(_THEMES[theme])
    ui.on_exception(_notify)


@contextmanager
def showing_problems() -> Iterator[None]:
    try:
        yield
    except DiffFitError as error:
        show_problem(error)


def show_problem(error: DiffFitError) -> None:
    """Adds an error of the API to the page, with its explanation and invalid fields."""
    title, detail = _told(error)
    with kit.box("problem") as element:
        element.props("role=alert")
        kit.write(title, "p", "problem-title")
        if detail:
            kit.write(detail)
        kit.original(_code(error), error.detail)
        if isinstance(error, ApiError):
            for wrong in error.errors if detail else ():
                line = f"{wrong.get('field', wrong.get('file', ''))}: {wrong.get('detail', '')}"
                if line != error.detail:
                    kit.write(line, "p", "muted")
            if isinstance(error, Unauthenticated):
                kit.button(tr("Sign in again"), _sign_in_again)
            if error.request_id:
                kit.write(tr("Request {request_id}", request_id=error.request_id), "p", "small")


def _notify(error: Exception) -> None:
    """Shows an error of the API, raised in an event handler, as a notification. If the session has ended, leads to the
    sign-in page and from there back to this page."""
    if isinstance(error, Unauthenticated):
        _sign_in_again()
    elif isinstance(error, DiffFitError):
        kit.refused(*_told(error))


def _told(error: DiffFitError) -> tuple[str, str]:
    """Returns the title and the explanation of an error. In other languages than the API's, one sentence is both."""
    told = problem(_code(error), error.detail)
    return (error.title, told) if told == error.detail else (told, "")


def _code(error: DiffFitError) -> str:
    """Returns the code of an error of the API; empty for an error of the SDK itself."""
    return str(getattr(error, "code", ""))


def _sign_in_again() -> None:
    ui.run_javascript(f"difffit.signIn({json.dumps(_address('/sign-in'))})")


def _navigation(pages: dict[str, str], current: str) -> None:
    with kit.box("pages", "nav") as navigation:
        navigation.props["aria-label"] = tr("Pages")
        for name, target in pages.items():
            link = ui.link(tr(name), target).classes("page-link", remove="nicegui-link")
            if name == current:
                link.props("aria-current=page")


def _theme_switch(theme: str) -> None:
    chosen = {"now": theme}
    mode = ui.dark_mode(_THEMES[theme])

    def switch() -> None:
        now = chosen["now"] = _NEXT[chosen["now"]]
        mode.value = _THEMES[now]
        show(*_SHOWN[now])
        ui.run_javascript(f"document.cookie = 'difffit_theme={now}; path=/; max-age=31536000; samesite=lax'")

    def show(icon: str, label: str) -> None:
        button.props(f"icon={icon}")
        button.props["aria-label"] = button.props["title"] = tr(label)

    button = kit.button("", switch, kind="quiet")
    show(*_SHOWN[theme])


def _address(path: str) -> str:
    """Returns the URL path of an asset or form target, with the path prefix under which the dashboard is mounted."""
    request = ui.context.client.request
    return f"{request.scope.get('root_path', '')}{path}"
