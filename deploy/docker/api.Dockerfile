# The API, migrations and the bucket job. Without torch.
FROM python:3.11.13-slim-bookworm
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 DIFFFIT_DATA_DIR=/tmp/difffit
COPY pyproject.toml requirements.lock README.md LICENSE alembic.ini ./
COPY api api
COPY core core
COPY migrations migrations
COPY worker worker
RUN pip install --constraint requirements.lock --editable .
# The file system is read-only later: without this every start would compile all modules anew.
RUN python -m compileall -q api core migrations worker
RUN useradd --uid 10001 --no-create-home difffit && mkdir /data && chown 10001 /data
USER 10001
EXPOSE 8000
CMD ["python", "-m", "api"]
