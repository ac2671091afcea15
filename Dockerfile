# Build: packaging/image (make image), or docker build -t joulebook .
#
# The base must have Python 3.11 to 3.14: the locks have hashes for these. The collector of the chart
# speaks PostgreSQL, hence requirements-postgresql.lock (11 MiB more). For a release name
# it by digest: --build-arg BASE=python:3.12-slim@sha256:...
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
ARG SOURCE_DATE_EPOCH=0
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements-postgresql.lock requirements-build.lock ./
# The application's environment has no pip in it; the one of the build does. Where packages come from
# a mirror: --secret id=pip.conf,src=... (and id=ca.pem, which pip.conf calls /run/secrets/ca.pem).
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    python3 -m venv /opt/build \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/build/bin/pip install --require-hashes -r requirements-build.lock \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --no-compile \
        --require-hashes -r requirements-postgresql.lock
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY exporter exporter
COPY packaging/trim packaging/trim
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/build/bin/pip --python /opt/venv/bin/python install --no-compile \
        --no-index --no-deps /dist/joulebook-*.whl \
    && packaging/trim /opt/venv

# What the base has for making images, and nothing that runs in one needs: package managers, their
# caches, and the language that one of them is written in. /var/lib/dpkg/status stays: scanners
# read there which libraries these are.
FROM ${BASE} AS slim
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0
RUN rm -rf /usr/local/lib/python3*/site-packages /usr/local/lib/python3*/ensurepip \
        /usr/local/lib/python3*/idlelib /usr/local/lib/python3*/test /usr/local/bin/pip* \
        /usr/local/bin/idle* /usr/lib/python3*/ensurepip /usr/share/python-wheels \
        /usr/share/python3/runtime.d /usr/bin/*perl* /usr/share/perl* /usr/lib/*/perl* \
        /usr/bin/apt* /usr/lib/apt /usr/libexec/dpkg /etc/apt /var/lib/apt /var/cache \
        /usr/share/doc /usr/share/man /usr/share/locale /var/log /tmp/* /root/.cache \
        /usr/sbin/dpkg* /usr/lib/dpkg /usr/bin/dpkg* \
    && find /var/lib/dpkg -mindepth 1 -maxdepth 1 ! -name status ! -name 'status.d' \
        -exec rm -rf {} + \
    && find / -xdev -name __pycache__ -prune -exec rm -rf {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash -x 'lib2to3|/tests?/' \
        "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && mkdir -p /var/cache /var/log \
    && install -d -o 65532 -g 65532 -m 0750 /var/lib/joulebook

# One layer, in which what was taken out is really gone.
FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG BASE
LABEL org.opencontainers.image.title="joulebook" \
      org.opencontainers.image.description="Every joule a lab's GPUs burn, booked once, to the experiment that burned it" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"

COPY --from=slim / /
COPY --from=build /opt/venv /opt/venv
COPY LICENSE NOTICE /usr/share/doc/joulebook/

# The driver's library is put in by NVIDIA's container runtime.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility \
    JOULEBOOK_SERVER_LISTEN=:9816

# GPUs can be read by anybody. The kubelet's pod-resources directory is 0750 root: on Kubernetes the
# chart runs this as uid 0, without capabilities.
USER 65532:65532
# `joulebook run --demo` keeps its ledger below the folder that it is started in.
WORKDIR /var/lib/joulebook
VOLUME ["/var/lib/joulebook"]
EXPOSE 9816
HEALTHCHECK --interval=30s --timeout=10s --start-period=20s CMD ["joulebook", "health"]
ENTRYPOINT ["joulebook"]
CMD ["run"]
