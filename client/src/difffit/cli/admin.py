"""`difffit admin`, for administrators' keys."""

from typing import Annotated, Any, Literal

import typer

from difffit.cli.arguments import LimitOption, YesOption, confirm
from difffit.cli.base import State, command
from difffit.cli.deletions import view as deletions_view
from difffit.cli.views import record, short, size, table

app = typer.Typer(help="Tenants, keys, every adapter, the fleet. For administrators' keys.", no_args_is_help=True)
tenants = typer.Typer(help="Whom the service is shared by.", no_args_is_help=True)
keys = typer.Typer(help="API keys of tenants.", no_args_is_help=True)
app.add_typer(tenants, name="tenants")
app.add_typer(keys, name="keys")

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Its id.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its id.")]
LifetimeOption = Annotated[int | None, typer.Option("--expires-in-days", min=1, help="Never when left out.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="Of this tenant alone, by id.")]
_TENANT = ("id", "name", "weight", "quotas", "created_at")


@command(tenants, "create")
def create_tenant(
    state: State, name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among tenants.")]
) -> None:
    """Create a tenant."""
    tenant = state.client.admin.tenants.create(name)
    state.show(tenant, record(tenant, *_TENANT))


@command(tenants, "list")
def list_tenants(state: State, limit: LimitOption = None) -> None:
    """List all tenants, newest first."""
    found = list(state.client.admin.tenants.list(limit))
    columns = {
        "id": lambda one: one.id,
        "name": lambda one: one.name,
        "weight": lambda one: one.weight,
        "created": lambda one: one.created_at,
    }
    state.show(found, table(found, columns))


@command(tenants, "get")
def get_tenant(state: State, tenant: TenantArgument) -> None:
    """Show one tenant."""
    found = state.client.admin.tenants.get(tenant)
    state.show(found, record(found, *_TENANT))


@command(tenants, "update")
def update_tenant(
    state: State,
    tenant: TenantArgument,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    weight: Annotated[float | None, typer.Option(help="Its share of the device beside others'.")] = None,
    quota: Annotated[list[str] | None, typer.Option(help="A limit, such as images_per_day=1000. Replaces all.")] = None,
) -> None:
    """Change a tenant's name, weight or quotas."""
    quotas = dict(_quota(one) for one in quota) if quota else None
    changed = state.client.admin.tenants.update(tenant, name=name, weight=weight, quotas=quotas)
    state.show(changed, record(changed, *_TENANT))


@command(tenants, "delete")
def delete_tenant(state: State, tenant: TenantArgument, yes: YesOption = False) -> None:
    """Delete a tenant with all it owns."""
    found = state.client.admin.tenants.get(tenant)
    confirm(f"Delete the tenant '{found.name}' with all it owns?", yes=yes)
    state.client.admin.tenants.delete(tenant)
    state.show({"deleted": tenant}, f"Deleted {tenant}.")


@command(keys, "create")
def create_key(
    state: State,
    tenant: TenantArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="To tell keys apart.")],
    read_only: Annotated[bool, typer.Option("--read-only", help="It may change nothing.")] = False,
    days: LifetimeOption = None,
) -> None:
    """Create an API key. It is shown this once."""
    issued = state.client.admin.keys.create(tenant, name, ["read"] if read_only else None, _seconds(days))
    state.show(issued, record(issued, "id", "name", "scopes", "key"))


@command(keys, "list")
def list_keys(state: State, tenant: TenantArgument) -> None:
    """List a tenant's keys, without their secrets."""
    found = list(state.client.admin.keys.list(tenant))
    columns = {
        "id": lambda one: one.id,
        "name": lambda one: one.name,
        "scopes": lambda one: one.scopes,
        "last used": lambda one: one.last_used_at,
        "expires": lambda one: one.expires_at,
        "revoked": lambda one: one.revoked_at,
    }
    state.show(found, table(found, columns))


@command(keys, "update")
def update_key(
    state: State,
    key: KeyArgument,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    days: LifetimeOption = None,
    endless: Annotated[bool, typer.Option("--endless", help="It expires no more.")] = False,
) -> None:
    """Change a key's name, or when it expires."""
    changed = state.client.admin.keys.update(key, name=name, lifetime_seconds="endless" if endless else _seconds(days))
    state.show(changed, record(changed, "id", "name", "scopes", "expires_at"))


@command(keys, "rotate")
def rotate_key(
    state: State,
    key: KeyArgument,
    overlap: Annotated[int | None, typer.Option(min=0, help="Seconds that the old key works still.")] = None,
    days: LifetimeOption = None,
) -> None:
    """Create a key in the place of another. It is shown this once."""
    issued = state.client.admin.keys.rotate(key, overlap_seconds=overlap, lifetime_seconds=_seconds(days))
    state.show(issued, record(issued, "id", "name", "scopes", "expires_at", "key"))


@command(keys, "revoke")
def revoke_key(state: State, key: KeyArgument, yes: YesOption = False) -> None:
    """Revoke a key. It stops working at once."""
    confirm(f"Revoke {key}?", yes=yes)
    state.client.admin.keys.revoke(key)
    state.show({"revoked": key}, f"Revoked {key}.")


@command(app)
def adapters(
    state: State,
    limit: LimitOption = None,
    tenant: TenantOption = None,
    domain: Annotated[str | None, typer.Option(help="Of this domain alone, by id.")] = None,
    base: Annotated[str | None, typer.Option(help="Made for this base alone, by digest.")] = None,
    status: Annotated[Literal["ready", "quarantined"] | None, typer.Option(help="Of this status alone.")] = None,
) -> None:
    """List every stored adapter of every tenant, newest first, and where it is resident."""
    filters: dict[str, Any] = {"tenant_id": tenant, "domain_id": domain, "base_digest": base, "status": status}
    found = list(state.client.admin.adapters(limit, **filters))
    columns = {
        "id": lambda one: one.id,
        "tenant": lambda one: one.tenant_id,
        "domain": lambda one: one.domain_id,
        "version": lambda one: one.version,
        "status": lambda one: one.status,
        "size": lambda one: size(one.size_bytes),
        "base": lambda one: short(one.base_digest),
        "resident on": lambda one: one.resident_on,
    }
    state.show(found, table(found, columns))
    total = size(sum(one.size_bytes for one in found))
    state.tell(f"Stored: {len(found)}, {total}.")


@command(app)
def workers(state: State) -> None:
    """List the workers that are alive, and what they hold."""
    found = list(state.client.admin.workers())
    columns = {
        "id": lambda one: one.id,
        "host": lambda one: one.hostname,
        "device": lambda one: one.device,
        "queues": lambda one: one.queues,
        "resident": lambda one: len(one.resident),
        "base": lambda one: short(one.base_digest),
        "seen": lambda one: one.heartbeat_at,
    }
    state.show(found, table(found, columns))


@command(app)
def usage(state: State) -> None:
    """Show what each tenant used, a row a day."""
    found = list(state.client.admin.usage())
    columns = {
        "day": lambda one: one.day,
        "tenant": lambda one: one.tenant_id,
        "images": lambda one: one.images,
        "row-steps": lambda one: one.row_steps,
        "training seconds": lambda one: one.training_seconds,
    }
    state.show(found, table(found, columns))


@command(app)
def deletions(state: State, tenant: TenantOption = None, limit: LimitOption = None) -> None:
    """List the receipts of deleted domains and tenants, newest first."""
    found = list(state.client.admin.deletions(limit, tenant_id=tenant))
    state.show(found, deletions_view(found))


@command(app)
def audit(state: State, limit: LimitOption = 50, tenant: TenantOption = None) -> None:
    """Show who changed what, newest first."""
    found = list(state.client.admin.audit(limit, tenant_id=tenant))
    columns = {
        "when": lambda one: one.created_at,
        "action": lambda one: one.action,
        "target": lambda one: one.target,
        "key": lambda one: one.actor_key_id,
        "tenant": lambda one: one.tenant_id,
    }
    state.show(found, table(found, columns))


def _seconds(days: int | None) -> int | None:
    return None if days is None else days * 86_400


def _quota(text: str) -> tuple[str, int]:
    name, found, value = text.partition("=")
    if not found or not value.isdecimal():
        raise typer.BadParameter(f"'{text}' is not NAME=NUMBER", param_hint="--quota")
    return name, int(value)
