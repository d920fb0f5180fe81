"""Form for a tenant's name, share of the device, limits and retention of images."""

from nicegui import ui

from api.dashboard import kit, words
from api.dashboard.forms import NAME_LENGTH, Form, form_dialog
from api.dashboard.texts import tr
from api.dashboard.user import User
from difffit.models import Tenant

_MIN_WEIGHT, _MAX_WEIGHT = 0.001, 1000
_MAX_LIMIT = 2**53 - 1
_MAX_DAYS = 36_500


def ask_to_edit(user: User, tenant: Tenant) -> None:
    async def change() -> None:
        form = Form(name=name, weight=weight, keep_image_days=days, keep_favourites=favourites, **limits)
        if not form.is_valid():
            return
        quotas = {key: _stored(key, field.value) for key, field in limits.items() if field.value is not None}
        with form.showing_problems():
            await user.api.admin.tenants.update(
                tenant.id,
                name=name.value,
                weight=float(weight.value),
                quotas=quotas,
                keep_image_days=int(days.value or 0),
                keep_favourites=bool(favourites.value),
            )
            kit.reload()

    with form_dialog(tr("Edit {name}", name=tenant.name), tr("Save"), change):
        name = kit.field(tr("Name"), tenant.name, needed=tr("Enter a name."), most=NAME_LENGTH).props("autofocus")
        hint = tr("Relative to other tenants, which have 1 by default.")
        least, most = _MIN_WEIGHT, _MAX_WEIGHT
        weight = kit.number(tr("Share of the device"), tenant.weight, least=least, most=most, whole=False, hint=hint)
        kit.muted(tr("Limits. An empty one is the service's own."))
        with kit.box("fields two"):
            limits = {key: _limit(key, tenant.quotas.get(key)) for key in words.LIMITS}
            days = kit.number(
                tr("Keep images (days)"), tenant.keep_image_days, least=1, most=_MAX_DAYS, may_be_empty=True
            )
        favourites = ui.checkbox(tr("Keep favourites longer"), value=tenant.keep_favourites)


def _limit(key: str, value: int | None) -> ui.number:
    """Adds the field of a limit. Storage is entered in megabytes."""
    unit = _unit(key)
    label = tr(words.LIMITS[key]) + (" (MB)" if unit > 1 else "")
    shown = None if value is None else value / unit
    return kit.number(label, shown, least=0, most=_MAX_LIMIT // unit, whole=unit == 1, may_be_empty=True)


def _stored(key: str, value: float) -> int:
    return round(value * _unit(key))


def _unit(key: str) -> int:
    return 1_000_000 if key == "stored_bytes" else 1
