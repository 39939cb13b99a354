# syntax=docker/dockerfile:1
# A slim Python with exactly the versions that the tests run with, and libtpu. Build it from the root of the checkout:
#
#   docker build --file launch/tpu.Dockerfile --tag bert-jax:tpu .
FROM python:3.11-slim-bookworm

WORKDIR /opt/bert_jax
# Packages first: this layer stays as it is for as long as these four files do.
COPY setup.py README.md constraints.txt ./
COPY bert_jax/__init__.py bert_jax/__init__.py
RUN mkdir configs \
 && python -m pip install --no-cache-dir --constraint constraints.txt '.[tpu,gcs,zh]' \
 && python -m pip uninstall --yes bert_jax

COPY . .
RUN python -m pip install --no-cache-dir --no-deps --editable . \
 && python -m bert_jax --version

# Root, because the TPU's device files belong to root on the nodes.
ENV PYTHONUNBUFFERED=1
ENTRYPOINT ["/opt/bert_jax/launch/entrypoint.sh"]
