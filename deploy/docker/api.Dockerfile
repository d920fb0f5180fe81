# The API, migrations and the bucket job. Without torch.
FROM python:3.11.15-slim-bookworm
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
EXPOSE 8000
CMD ["python", "-m", "api"]
