"""Sessions of signed-in dashboard users. API keys are held in memory only, and the browser's signed cookie contains the
session's token instead. After a restart of the API, users must sign in again."""

import secrets
import time
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from nicegui import Client

from api.dashboard.drafts import Draft

COOKIE = "difffit_session"
COOKIE_SECONDS = 7 * 86_400
IDLE_SECONDS = 12 * 3600
MAX_SESSIONS, MAX_CLOSED_PAGES = 1000, 100
"""Limits for each key: its sessions, and its pages in memory that no browser is connected to. Beyond them the oldest
ends."""


@dataclass
class Session:
    """Session of a browser that has signed in with an API key."""

    key: str
    name: str
    """Name of the tenant, or `Administrator`."""
    is_admin: bool
    may_write: bool
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    drafts: dict[str, Draft] = field(default_factory=dict)
    """Unsaved changes of data sets, by the data set's id."""
    tours: dict[str, bool] = field(default_factory=dict)
    """Whether the tour of the first steps is open, by the id of the domain that it is in."""
    used_at: float = field(default_factory=time.monotonic)


class Sessions:
    def __init__(self) -> None:
        self._found: dict[str, Session] = {}
        self._pages: WeakKeyDictionary[Client, str] = WeakKeyDictionary()
        """Keys of the sessions that pages were made for, in the order of the pages."""

    def begin(self, session: Session) -> str:
        """Stores the session and returns the token for the cookie."""
        self._forget_idle()
        of_key = [token for token, each in self._found.items() if each.key == session.key]
        for token in of_key[: len(of_key) + 1 - MAX_SESSIONS]:
            del self._found[token]
        self._found[session.token] = session
        return session.token

    def find(self, token: str | None) -> Session | None:
        self._forget_idle()
        session = self._found.get(token or "")
        if session is not None:
            session.used_at = time.monotonic()
        return session

    def add_page(self, session: Session, page: Client) -> None:
        """Registers a page that is sent to the session's browser, and deletes the oldest pages of the same key that are
        too many. Connected pages are limited by the number of connections."""
        self._pages[page] = session.key
        closed = [
            each
            for each, key in self._pages.items()
            if key == session.key and not each.is_deleted and not each.has_socket_connection
        ]
        for each in closed[:-MAX_CLOSED_PAGES]:
            each.delete()

    def end(self, token: str | None) -> None:
        self._found.pop(token or "", None)

    def _forget_idle(self) -> None:
        limit = time.monotonic() - IDLE_SECONDS
        for token in [token for token, session in self._found.items() if session.used_at < limit]:
            del self._found[token]
