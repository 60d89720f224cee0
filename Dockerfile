# syntax=docker/dockerfile:1
# The image of worker and training: `offnormal-worker` is the entry point, `offnormal-training` lies beside it.
#
#   docker build -t offnormal .                          CUDA: the torch that is pinned is the CUDA build
#   docker build -t offnormal --build-arg DEVICE=cpu --build-arg TORCH_INDEX=URL .
#
# DEVICE=cpu takes torch, in the pinned version, from an index of CPU builds, which you name by TORCH_INDEX: some 3 GB
# less. Those wheels have hashes of their own, so that one package is not checked against deploy/requirements.txt.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG DEVICE=cuda
ARG TORCH_INDEX=
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/offnormal
WORKDIR /src
COPY deploy/requirements.txt deploy/requirements.txt
RUN if [ "${DEVICE}" = cuda ]; then \
      /opt/offnormal/bin/pip install --require-hashes -r deploy/requirements.txt; \
    elif [ "${DEVICE}" != cpu ]; then \
      echo "DEVICE is cuda or cpu" >&2; exit 1; \
    else \
      test -n "${TORCH_INDEX}" || { echo "DEVICE=cpu needs TORCH_INDEX" >&2; exit 1; }; \
      version=$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' deploy/requirements.txt); \
      /opt/offnormal/bin/pip install --no-deps --index-url "${TORCH_INDEX}" "torch==${version}"; \
      awk '/^[^ ]/ { skip = /^(torch|triton|nvidia-|cuda-)/ } !skip' deploy/requirements.txt > /tmp/others.txt; \
      /opt/offnormal/bin/pip install --no-deps --require-hashes -r /tmp/others.txt; \
    fi
COPY pyproject.toml README.md LICENSE ./
COPY worker worker
COPY training training
COPY deploy/precompile.py deploy/precompile.py
RUN /opt/offnormal/bin/pip install --no-deps --no-build-isolation . \
    && /opt/offnormal/bin/pip uninstall --yes pip \
    && NUMBA_CACHE_DIR=/opt/offnormal/numba /opt/offnormal/bin/python deploy/precompile.py

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="Offnormal" \
      org.opencontainers.image.description="Streaming anomaly detection on Kafka" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/offnormal /opt/offnormal
# The root file system may be read only: nothing is written but to /tmp.
ENV NUMBA_SHIPPED_CACHE=/opt/offnormal/numba
# numpy's pool of threads would be as wide as the node, whatever CPU the pod is given. torch's follows OFFNORMAL_THREADS.
ENV OMP_NUM_THREADS=1
ENV PATH=/opt/offnormal/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]
ENTRYPOINT ["offnormal-worker"]
