"""Line that shows a tenant how much of its storage is used, before uploads fail."""

from contextlib import suppress

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.texts import tr
from api.dashboard.user import User
from difffit import DiffFitError

_NEARLY_FULL = 0.9


async def show_storage(user: User, place: ui.element) -> None:
    """Adds the used and the allowed bytes to `place`, with advice if they are nearly used up. Adds nothing for a tenant
    without a limit, or if the API does not answer."""
    with suppress(DiffFitError):
        quota = (await user.api.usage()).quotas["stored_bytes"]
        if quota.limit is None or place.is_deleted:
            return
        used = tr("{used} of {limit} of storage used.", used=words.size(quota.used), limit=words.size(quota.limit))
        with place:
            if quota.used < _NEARLY_FULL * quota.limit:
                kit.write(used, "p", "small")
                return
            with kit.box("problem") as problem:
                problem.props("role=status")
                is_full = quota.used >= quota.limit
                kit.write(tr("Storage is full") if is_full else tr("Storage is nearly full"), "p", "problem-title")
                advice = tr("Delete data sets, versions or images, or ask your administrator for more.")
                refused = (
                    tr("New uploads, fine-tunes and images are refused.")
                    if is_full
                    else tr("Uploads that need more are refused.")
                )
                kit.write(f"{used} {refused} {advice}")
