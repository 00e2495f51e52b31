# tessera for a CPU, or with CUDA for an NVIDIA GPU (about 2.7 GB more):
#   docker build --tag tessera .
#   docker build --tag tessera:cuda --build-arg TORCH_INDEX= .
# The miniature, with its output in ./out; `--gpus all` gives the GPU to the second image:
#   docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD/out:/work/out" tessera run miniature
FROM python:3.12-slim-bookworm
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# torch compiles its kernels for a GPU with a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/tessera
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[hub,demo]"
RUN useradd --uid 1000 tessera && install --directory --owner tessera /work
USER 1000
# Caches have a home whatever number `--user` gives.
ENV HOME=/tmp USER=tessera
WORKDIR /work
ENTRYPOINT ["tessera"]
CMD ["--help"]
