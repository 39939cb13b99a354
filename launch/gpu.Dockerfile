# syntax=docker/dockerfile:1
# NVIDIA's image brings JAX, CUDA and NCCL that belong together. Build it from the root of the checkout:
#
#   docker build --file launch/gpu.Dockerfile --tag bert-jax:gpu .
#
# Tags: https://catalog.ngc.nvidia.com/orgs/nvidia/containers/jax; nightly builds: ghcr.io/nvidia/jax:base
ARG BASE=nvcr.io/nvidia/jax:26.06-py3
FROM ${BASE}

# Ubuntu guards its system-wide Python against pip; in an image it is ours.
ENV PIP_BREAK_SYSTEM_PACKAGES=1
WORKDIR /opt/bert_jax
# Packages first: this layer stays as it is for as long as setup.py does. The version of JAX and of what belongs to it is
# held; what cannot be installed beside it is an error here, and not at the first step of a run.
COPY launch/hold_jax.py launch/hold_jax.py
COPY setup.py README.md ./
COPY bert_jax/__init__.py bert_jax/__init__.py
RUN mkdir configs \
 && python3 launch/hold_jax.py > /opt/jax-versions.txt \
 && python3 -m pip install --no-cache-dir --constraint /opt/jax-versions.txt '.[gcs,zh]' \
 && python3 -m pip uninstall --yes bert_jax \
 && python3 launch/hold_jax.py --compare /opt/jax-versions.txt

COPY . .
RUN python3 -m pip install --no-cache-dir --no-deps --editable . \
 && python3 -m bert_jax --version

ENV HOME=/tmp \
    PYTHONUNBUFFERED=1
USER 1000:1000
ENTRYPOINT ["/opt/bert_jax/launch/entrypoint.sh"]
