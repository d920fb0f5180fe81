# The API, migrations and the bucket job. Without torch. The target `backup` also has PostgreSQL's client programs.
FROM python:3.11.15-slim-bookworm AS app
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 DIFFFIT_DATA_DIR=/tmp/difffit
COPY deploy/docker/api.lock ./
RUN pip install --no-deps --require-hashes --requirement api.lock
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY api api
COPY core core
COPY migrations migrations
COPY worker worker
COPY local local
COPY client client
# The file system is read-only later: without compileall every start would compile all modules again.
RUN pip install --no-deps --no-build-isolation --editable . --editable ./client \
    && pip check \
    && python -m compileall -q api client core local migrations worker \
    && useradd --uid 10001 --no-create-home difffit \
    && mkdir /data \
    && chown 10001 /data
USER 10001

FROM app AS backup
USER 0
# pg_dump must be of the server's version or later, which Debian's is not: this adds PostgreSQL's own repository.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends ca-certificates postgresql-common \
    && /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y \
    && apt-get install --yes --no-install-recommends postgresql-client-18 \
    && rm -rf /var/lib/apt/lists/*
USER 10001
ENTRYPOINT ["python", "-m", "core.service.backup"]
CMD ["--help"]

FROM app
EXPOSE 8000
CMD ["python", "-m", "api"]
