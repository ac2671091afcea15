# Build: docker build -t joulebook .    The same in podman and buildah.
ARG BASE=python:3.12-slim

FROM ${BASE} AS build
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
# The application's environment has no pip in it; the one of the build does.
RUN python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes \
        -r requirements-build.lock \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir \
        --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY exporter exporter
RUN /opt/build/bin/pip wheel --no-cache-dir --disable-pip-version-check --no-deps \
        --no-build-isolation --wheel-dir /dist . \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --no-cache-dir \
        --disable-pip-version-check --no-compile --no-index --no-deps /dist/joulebook-*.whl \
    && /opt/venv/bin/python -m compileall -q /opt/venv/lib

FROM ${BASE}
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="joulebook" \
      org.opencontainers.image.description="Every joule a lab's GPUs burn, booked once, to the experiment that burned it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=build /opt/venv /opt/venv
COPY LICENSE NOTICE /usr/share/doc/joulebook/
RUN install -d -o 65532 -g 65532 -m 0750 /var/lib/joulebook

# The driver's library is put in by NVIDIA's container runtime.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility \
    JOULEBOOK_SERVER_LISTEN=0.0.0.0:9816

# GPUs can be read by anybody. The kubelet's pod-resources directory is 0750 root: on Kubernetes the
# chart runs this as uid 0, without capabilities.
USER 65532:65532
VOLUME ["/var/lib/joulebook"]
EXPOSE 9816
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9816/healthz', timeout=3)"]
ENTRYPOINT ["joulebook"]
CMD ["run"]
