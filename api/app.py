"""Factory of the FastAPI application: creates the services and adds middleware, routes and the dashboard."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import Depends, FastAPI, Request, status
from fastapi.responses import PlainTextResponse
from prometheus_client import start_http_server

from api.bodies import BodyLimitMiddleware
from api.cross_origin import add_cross_origin
from api.deps import Services
from api.headers import SecurityHeadersMiddleware
from api.limits import RequestLimits
from api.middleware import RequestMiddleware
from api.notifier import Notifier
from api.openapi import add_documentation, add_openapi
from api.problems import add_error_handlers
from api.queries import check_query
from api.readiness import ReadinessCheck
from api.refused_keys import RefusedKeys
from api.routes import (
    adapters,
    admin,
    base,
    dataset_images,
    dataset_uploads,
    dataset_versions,
    datasets,
    deletions,
    domains,
    finetunes,
    generations,
    health,
    images,
    keys,
    usage,
    webhooks,
)
from api.signing import load_secret
from core.service import keys as api_keys
from core.service.broker import CeleryDispatcher, make_celery
from core.service.config import Settings, get_settings
from core.service.db.clock import check_clock
from core.service.db.roles import check_role
from core.service.db.schema import is_current, upgrade
from core.service.db.session import Database
from core.service.extras import how_to_install, is_installed, log_missing
from core.service.logs import configure_logs
from core.service.storage import open_store
from core.service.storage.scratch import check_scratch
from core.service.tenancy import SYSTEM
from core.service.tracing import configure_traces


def create_app(settings: Settings | None = None) -> FastAPI:
    """Creates the ASGI application, for example for `uvicorn --factory api.app:create_app`."""
    settings = settings or get_settings()
    configure_logs(settings)
    app = FastAPI(
        title="DiffFit Server",
        version="0.1.0",
        lifespan=_lifespan,
        docs_url=None,  # `add_documentation` adds its own page
        redoc_url=None,
        dependencies=[Depends(check_query)],
    )
    app.state.services = _services(settings)
    app.state.readiness = ReadinessCheck(app.state.services)
    add_error_handlers(app)
    app.add_middleware(BodyLimitMiddleware, settings=settings)
    app.add_middleware(RequestMiddleware)
    add_cross_origin(app, settings)  # outside the former, so that pages can read its responses to unexpected errors
    app.add_middleware(SecurityHeadersMiddleware, settings=settings)
    tenant_routes = (
        domains,
        datasets,
        dataset_images,
        dataset_uploads,
        dataset_versions,
        finetunes,
        generations,
        images,
        adapters,
        webhooks,
    )
    for module in (*tenant_routes, base, usage, keys, deletions, admin, health):
        app.include_router(module.router)
    add_openapi(app)
    add_documentation(app)
    if settings.dashboard:
        _add_dashboard(app)
    log_missing("docs", *(["dashboard"] if settings.dashboard else []))
    return app


def prepare(services: Services) -> None:
    """Checks the database and the disk for uploads, creates the tables if the database is SQLite, and creates and
    prints the first administrator's API key. Safe to call again.

    Raises SystemExit if the schema of a database server is not at this version, DatabaseRoleUnfit if the API's database
    role bypasses row-level security or may not use the tables, DatabaseUnavailable if the database does not respond,
    ScratchTooSmall if uploads do not fit on the disk of temporary files.
    """
    settings = services.settings
    check_scratch("DIFFFIT_MAX_SPOOLED_BYTES", settings.max_spooled_bytes)
    check_role(services.database.engine)
    if not is_current(services.database.engine):
        if not settings.embedded:
            raise SystemExit("The database schema is not at this version. Run `python -m migrations` first.")
        upgrade(settings.database_url)
    configured = settings.admin_key.get_secret_value() if settings.admin_key else None
    with services.database.session(SYSTEM) as session:
        check_clock(session)
        new_key = api_keys.ensure_admin_key(session, configured)
    if new_key is not None:
        print(f"\nThe first administrator's key, shown only now:\n\n    {new_key}\n", flush=True)


def _add_dashboard(app: FastAPI) -> None:
    if is_installed("dashboard"):
        from api.dashboard.mount import mount  # slow to import, and many processes have no dashboard

        mount(app)
        return

    def explain(_request: Request) -> PlainTextResponse:
        text = f"The pages are not installed on this server. Install them: {how_to_install('dashboard')}\n"
        return PlainTextResponse(text, status.HTTP_501_NOT_IMPLEMENTED)

    app.add_route("/dashboard{path:path}", explain, include_in_schema=False)


def _services(settings: Settings) -> Services:
    database = Database(settings.database_url)
    configure_traces(settings, "difffit-api", database.engine)
    return Services(
        settings=settings,
        database=database,
        store=open_store(settings),
        dispatcher=CeleryDispatcher(make_celery(settings)),
        notifier=Notifier(database),
        limits=RequestLimits(settings),
        refused_keys=RefusedKeys(database),
        url_secret=load_secret(settings),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    prepare(services)
    services.notifier.start()
    services.refused_keys.start()
    with _metrics_server(services.settings):
        yield
    await services.refused_keys.stop()
    await services.notifier.stop()
    services.database.dispose()


@contextmanager
def _metrics_server(settings: Settings) -> Iterator[None]:
    """Serves Prometheus metrics from a thread until the context ends, if `api_metrics_port` is set."""
    if not settings.api_metrics_port:
        yield
        return
    server, thread = start_http_server(settings.api_metrics_port, settings.host)
    yield
    server.shutdown()
    server.server_close()
    thread.join()
