# The worker. TORCH_INDEX chooses the build of torch: empty for PyPI's CUDA build, or an index, such as PyTorch's for the
# CPU. TORCH chooses its version, such as torch==2.11.0.
FROM python:3.11.15-slim-bookworm
ARG TORCH_INDEX=""
ARG TORCH="--requirement requirements-torch.txt"
WORKDIR /app
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 DIFFFIT_DATA_DIR=/tmp/difffit HF_HOME=/models
# Triton compiles its kernels on the GPU's machine: for that it needs a C compiler, and a folder that it may write.
ENV TRITON_CACHE_DIR=/tmp/triton
# The compiler has no pin: Debian keeps one version in a release, and removes what it mends.
# hadolint ignore=DL3008
RUN case "$TORCH_INDEX" in */cpu | */cpu/) exit ;; esac \
    && apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY deploy/docker/worker.lock requirements-torch.txt ./
# hadolint ignore=DL3013
RUN pip install --no-deps --require-hashes --requirement worker.lock \
    && pip install $TORCH ${TORCH_INDEX:+--index-url $TORCH_INDEX}
COPY pyproject.toml README.md LICENSE alembic.ini ./
COPY core core
COPY local local
COPY migrations migrations
COPY worker worker
COPY api api
COPY client client
# The file system is read-only later: without compileall every start would compile all modules again.
RUN pip install --no-deps --no-build-isolation --editable . --editable ./client \
    && pip check \
    && python -m compileall -q api client core local migrations worker \
    && useradd --uid 10001 --no-create-home difffit \
    && mkdir /data /models \
    && chown 10001 /data /models
USER 10001
VOLUME /models
CMD ["python", "-m", "worker"]
