"""Commands of `difffit admin`, which need an administrator's API key."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from difffit.cli.arguments import (
    DAY,
    HOUR,
    AfterOption,
    BeforeOption,
    FromDayOption,
    KeepFavouritesOption,
    KeepImageDaysOption,
    LimitOption,
    ToDayOption,
    YesOption,
    confirm,
    day_of,
    in_seconds,
    optional_tenant_id,
    tenant_of,
)
from difffit.cli.base import State, command
from difffit.cli.deletions import view as deletions_view
from difffit.cli.views import DAY_COLUMNS, record, short, show_deleted, size, table
from difffit.filters import AuditFilters

app = typer.Typer(
    help="Manage tenants, keys, adapters and workers. Needs an administrator's key.", no_args_is_help=True
)
tenants = typer.Typer(help="Manage tenants.", no_args_is_help=True)
keys = typer.Typer(help="Manage the API keys of tenants and administrators.", no_args_is_help=True)
app.add_typer(tenants, name="tenants")
app.add_typer(keys, name="keys")

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Name or id of the tenant.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Id of the key.")]
NewLifetimeOption = Annotated[
    int | None, typer.Option("--expires-in-days", min=1, help="Days until the key expires. Never, when omitted.")
]
EndlessOption = Annotated[bool, typer.Option("--never-expires", "--endless", help="The key never expires.")]
WeightOption = Annotated[
    float | None, typer.Option("--weight", help="Weight of the tenant's share of the device. Others have 1 by default.")
]
QuotaOption = Annotated[
    list[str] | None,
    typer.Option(
        "--quota",
        metavar="NAME=NUMBER",
        help="A limit of its own, such as images_per_day=1000. Repeatable. NAME=default removes it.",
    ),
]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="List only this tenant, by name or id.")]
_ISSUED = ("id", "name", "scopes", "expires_at", "key")
_TENANT = ("id", "name", "weight", "quotas", "keep_image_days", "created_at")


@command(tenants, "create")
def create_tenant(
    state: State,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among tenants.")],
    weight: WeightOption = None,
    quota: QuotaOption = None,
) -> None:
    """Create a tenant."""
    tenant = state.client.admin.tenants.create(name, weight=weight, quotas=_quotas({}, quota or []))
    state.show(tenant, record(tenant, *_TENANT))


@command(tenants, "list")
def list_tenants(
    state: State,
    limit: LimitOption = None,
    name: Annotated[str | None, typer.Option(help="List only tenants whose name contains this text.")] = None,
) -> None:
    """List all tenants, newest first."""
    rows = list(state.client.admin.tenants.list(limit, name=name))
    columns = {
        "id": lambda tenant: tenant.id,
        "name": lambda tenant: tenant.name,
        "weight": lambda tenant: tenant.weight,
        "created": lambda tenant: tenant.created_at,
    }
    state.show(rows, table(rows, columns))


@command(tenants, "get")
def get_tenant(state: State, tenant: TenantArgument) -> None:
    """Show one tenant."""
    details = tenant_of(state.client, tenant)
    state.show(details, record(details, *_TENANT))


@command(tenants, "update")
def update_tenant(
    state: State,
    tenant: TenantArgument,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    weight: WeightOption = None,
    quota: QuotaOption = None,
    keep_image_days: KeepImageDaysOption = None,
    keep_favourites: KeepFavouritesOption = None,
) -> None:
    """Change a tenant's name, weight, quotas or retention of images. Other quotas stay."""
    current = tenant_of(state.client, tenant)
    changed = state.client.admin.tenants.update(
        current.id,
        name=name,
        weight=weight,
        quotas=_quotas(current.quotas, quota) if quota else None,
        keep_image_days=keep_image_days,
        keep_favourites=keep_favourites,
    )
    state.show(changed, record(changed, *_TENANT))


@command(tenants, "delete")
def delete_tenant(state: State, tenant: TenantArgument, yes: YesOption = False) -> None:
    """Delete a tenant and everything it owns."""
    details = tenant_of(state.client, tenant)
    confirm(f"Delete the tenant '{details.name}' and everything it owns?", yes=yes)
    show_deleted(state, details.id, state.client.admin.tenants.delete(details.id))


@command(keys, "create")
def create_key(
    state: State,
    tenant: TenantArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Label of the key.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="The key can read but not change anything.")] = False,
    days: NewLifetimeOption = None,
) -> None:
    """Create an API key for a tenant. The key is shown only now."""
    owner = tenant_of(state.client, tenant).id
    issued = state.client.admin.keys.create(owner, name, ["read"] if read_only else None, in_seconds(days, DAY))
    state.show(issued, record(issued, *_ISSUED))


@command(keys, "create-admin")
def create_admin_key(
    state: State,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Label of the key, such as its owner's name.")],
    days: NewLifetimeOption = None,
) -> None:
    """Create an administrator's API key. The key is shown only now."""
    issued = state.client.admin.keys.create_admin(name, in_seconds(days, DAY))
    state.show(issued, record(issued, *_ISSUED))


@command(keys, "list")
def list_keys(
    state: State,
    tenant: Annotated[
        str | None,
        typer.Argument(metavar="[TENANT]", help="Name or id of the tenant. The administrators' keys, when omitted."),
    ] = None,
) -> None:
    """List a tenant's API keys, or the administrators' ones, without their secrets."""
    listed = state.client.admin.keys
    rows = list(listed.list_admin() if tenant is None else listed.list(tenant_of(state.client, tenant).id))
    columns = {
        "id": lambda key: key.id,
        "name": lambda key: key.name,
        "scopes": lambda key: key.scopes,
        "last used": lambda key: key.last_used_at,
        "expires": lambda key: key.expires_at,
        "revoked": lambda key: key.revoked_at,
    }
    state.show(rows, table(rows, columns))


@command(keys, "update")
def update_key(
    state: State,
    key: KeyArgument,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    days: Annotated[
        int | None,
        typer.Option("--expires-in-days", min=1, help="Days from now until the key expires. Unchanged, when omitted."),
    ] = None,
    endless: EndlessOption = False,
) -> None:
    """Change an API key's name or expiry date."""
    changed = state.client.admin.keys.update(key, name=name, lifetime_seconds=_lifetime(days, endless))
    state.show(changed, record(changed, "id", "name", "scopes", "expires_at"))


@command(keys, "rotate")
def rotate_key(
    state: State,
    key: KeyArgument,
    overlap: Annotated[int | None, typer.Option(min=0, help="Hours for which the old key keeps working.")] = None,
    days: Annotated[
        int | None,
        typer.Option(
            "--expires-in-days",
            min=1,
            help="Days until the new key expires. When omitted, it gets the lifetime of the old key.",
        ),
    ] = None,
    endless: EndlessOption = False,
) -> None:
    """Replace an API key with a new one. The new key is shown only now."""
    issued = state.client.admin.keys.rotate(
        key, overlap_seconds=in_seconds(overlap, HOUR), lifetime_seconds=_lifetime(days, endless)
    )
    state.show(issued, record(issued, *_ISSUED))


@command(keys, "revoke")
def revoke_key(state: State, key: KeyArgument, yes: YesOption = False) -> None:
    """Revoke an API key. It stops working at once."""
    confirm(f"Revoke {key}?", yes=yes)
    state.client.admin.keys.revoke(key)
    state.show({"revoked": key}, f"Revoked {key}.")


@command(app)
def adapters(
    state: State,
    limit: LimitOption = None,
    tenant: TenantOption = None,
    domain: Annotated[str | None, typer.Option(help="List only this domain, by id.")] = None,
    base: Annotated[str | None, typer.Option(help="List only adapters for this base, by digest.")] = None,
    status: Annotated[
        Literal["ready", "quarantined"] | None, typer.Option(help="List only adapters with this status.")
    ] = None,
) -> None:
    """List the adapters of all tenants, newest first, each with the workers that have it in memory."""
    owner = optional_tenant_id(state.client, tenant)
    filters: dict[str, Any] = {"tenant_id": owner, "domain_id": domain, "base_digest": base, "status": status}
    rows = list(state.client.admin.adapters(limit, **filters))
    columns = {
        "id": lambda adapter: adapter.id,
        "tenant": lambda adapter: adapter.tenant_id,
        "domain": lambda adapter: adapter.domain_id,
        "version": lambda adapter: adapter.version,
        "status": lambda adapter: adapter.status,
        "size": lambda adapter: size(adapter.size_bytes),
        "base": lambda adapter: short(adapter.base_digest),
        "resident on": lambda adapter: adapter.resident_on,
    }
    state.show(rows, table(rows, columns))
    total = size(sum(adapter.size_bytes for adapter in rows))
    state.note(f"Adapters listed: {len(rows)}, {total} in total.")


@command(app)
def queues(state: State) -> None:
    """Show how many jobs of each kind wait and run."""
    rows = list(state.client.admin.queues())
    columns = {
        "queue": lambda queue: queue.queue,
        "waiting": lambda queue: queue.waiting,
        "running": lambda queue: queue.running,
        "oldest waiting since": lambda queue: queue.oldest_waiting_at,
    }
    state.show(rows, table(rows, columns))


@command(app)
def workers(state: State) -> None:
    """List the live workers, each with the number of adapters that it has in memory."""
    rows = list(state.client.admin.workers())
    columns = {
        "id": lambda worker: worker.id,
        "host": lambda worker: worker.hostname,
        "device": lambda worker: worker.device,
        "queues": lambda worker: worker.queues,
        "resident": lambda worker: len(worker.resident),
        "base": lambda worker: short(worker.base_digest),
        "seen": lambda worker: worker.heartbeat_at,
        "healthy": lambda worker: worker.healthy,
        "problem": lambda worker: worker.problem,
    }
    state.show(rows, table(rows, columns))


@command(app)
def usage(
    state: State, tenant: TenantOption = None, from_day: FromDayOption = None, to_day: ToDayOption = None
) -> None:
    """Show the usage of each tenant per day, by default for the last 30 days."""
    owner = optional_tenant_id(state.client, tenant)
    rows = list(state.client.admin.usage(tenant_id=owner, from_day=day_of(from_day), to_day=day_of(to_day)))
    state.show(rows, table(rows, {"tenant": lambda day: day.tenant_id, **DAY_COLUMNS}))


@command(app)
def deletions(state: State, tenant: TenantOption = None, limit: LimitOption = None) -> None:
    """List the receipts of all deletions, newest first."""
    receipts = list(state.client.admin.deletions(limit, tenant_id=optional_tenant_id(state.client, tenant)))
    state.show(receipts, deletions_view(receipts))


@command(app)
def audit(
    state: State,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries.")] = 50,
    tenant: TenantOption = None,
    key: Annotated[str | None, typer.Option("--key", help="List only actions with this key, by id.")] = None,
    action: Annotated[str | None, typer.Option(help="List only this action, such as `adapter.promote`.")] = None,
    after: AfterOption = None,
    before: BeforeOption = None,
) -> None:
    """Show the audit log: what was changed, when and with which API key, newest first."""
    filters: AuditFilters = {"tenant_id": optional_tenant_id(state.client, tenant), "actor_key_id": key}
    filters |= {"action": action, "created_after": after, "created_before": before}
    entries = list(state.client.admin.audit(limit, **filters))
    columns = {
        "when": lambda entry: entry.created_at,
        "action": lambda entry: entry.action,
        "target": lambda entry: entry.target,
        "key": lambda entry: entry.actor_key_id,
        "address": lambda entry: entry.address,
        "tenant": lambda entry: entry.tenant_id,
    }
    state.show(entries, table(entries, columns))


def _lifetime(days: int | None, endless: bool) -> int | Literal["endless"] | None:
    """Returns the lifetime in seconds, for the SDK. Raises BadParameter if both options are given."""
    if endless and days is not None:
        raise typer.BadParameter("Use --never-expires or --expires-in-days, not both.", param_hint="--never-expires")
    return "endless" if endless else in_seconds(days, DAY)


def _quotas(own: Mapping[str, int], changes: list[str]) -> dict[str, int]:
    """Returns a tenant's own quotas after changes of the form NAME=NUMBER or NAME=default."""
    quotas = dict(own)
    for change in changes:
        name, separator, value = change.partition("=")
        if separator and value == "default":
            quotas.pop(name, None)
        elif separator and value.isdecimal():
            quotas[name] = int(value)
        else:
            raise typer.BadParameter(
                f"'{change}' is not a quota. Write NAME=NUMBER, such as images_per_day=1000, or NAME=default.",
                param_hint="--quota",
            )
    return quotas
