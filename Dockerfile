# meterproxy against a PostgreSQL of its own host's or cluster's; compose.yaml shows one.
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY pyproject.toml README.md LICENSE NOTICE CHANGELOG.md ./
COPY meterproxy meterproxy
COPY sql sql
RUN python -m venv /opt/meterproxy && /opt/meterproxy/bin/pip install .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin meterproxy \
    && install --directory --owner meterproxy --group meterproxy --mode 0700 /data
COPY --from=build /opt/meterproxy /opt/meterproxy
ENV PATH=/opt/meterproxy/bin:$PATH PYTHONUNBUFFERED=1 METERPROXY_DATA_DIR=/data METERPROXY_LISTEN=0.0.0.0:8080
USER meterproxy
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=2).close()"]
ENTRYPOINT ["meterproxy"]
CMD ["serve"]
