# The worker. TORCH_INDEX chooses the build of torch: empty for PyPI's CUDA build, PyTorch's index for the CPU's.
FROM python:3.11.13-slim-bookworm
ARG TORCH_INDEX=""
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 DIFFFIT_DATA_DIR=/tmp/difffit HF_HOME=/models
COPY pyproject.toml requirements.lock README.md LICENSE alembic.ini ./
RUN pip install "$(grep '^torch==' requirements.lock)" ${TORCH_INDEX:+--index-url $TORCH_INDEX}
COPY core core
COPY migrations migrations
COPY worker worker
COPY api api
COPY client client
RUN pip install --constraint requirements.lock --editable '.[worker]' ./client
# The file system is read-only later: without this every start would compile all modules anew.
RUN python -m compileall -q api client core migrations worker
RUN useradd --uid 10001 --no-create-home difffit && mkdir /data /models && chown 10001 /data /models
USER 10001
VOLUME /models
CMD ["python", "-m", "worker"]
