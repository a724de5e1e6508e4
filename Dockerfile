# All images, one target each; any of Python 3.11 to 3.14 will do, on linux/amd64 and linux/arm64 alike:
#   docker build --target api --tag millrace-api .
#   docker build --target api --tag millrace-api --build-arg ROLE=serving-extras .         traces and Parquet too
#   docker build --target worker --tag millrace-worker .
#   docker build --target worker --tag millrace-worker-gpu --build-arg ROLE=worker-gpu .
#   docker build --target worker --tag millrace-worker --build-arg ROLE=worker-stores .    for models at a URL
#   docker build --target jobs --tag millrace-jobs .
#   docker build --target release --tag millrace-release .    the API and a worker, for compose's standby
ARG PYTHON=3.13-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# What a role needs, in a virtual environment: made again only when the pinned requirements change.
FROM build AS environment
RUN python -m venv --without-pip /opt/millrace
ENV INSTALL="pip --python /opt/millrace/bin/python install --require-hashes"

FROM environment AS api-environment
ARG ROLE=serving
COPY requirements/${ROLE}.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip $INSTALL --requirement /requirements/${ROLE}.txt

FROM environment AS worker-environment
ARG ROLE=worker
COPY requirements/${ROLE}.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip $INSTALL --requirement /requirements/${ROLE}.txt

FROM environment AS jobs-environment
COPY requirements/jobs.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip $INSTALL --requirement /requirements/jobs.txt

FROM environment AS release-environment
ARG API_ROLE=serving
ARG ROLE=worker
COPY requirements/${API_ROLE}.txt requirements/${ROLE}.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    $INSTALL --requirement /requirements/${API_ROLE}.txt --requirement /requirements/${ROLE}.txt

# The project as a wheel. A wheel holds the folders of the project that are there to be packed, so the roles that are
# not copied are in neither the wheel nor the image. The build tools stay behind in these stages.
FROM build AS project
COPY requirements/build.txt /requirements/
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes --requirement /requirements/build.txt
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY millrace/ millrace/
ENV WHEEL="pip wheel --no-build-isolation --no-deps --no-index --wheel-dir /wheels ."

FROM project AS api-wheel
COPY ops/ ops/
COPY serving/ serving/
RUN $WHEEL

FROM project AS worker-wheel
COPY worker/ worker/
RUN $WHEEL

FROM project AS jobs-wheel
COPY jobs/ jobs/
RUN $WHEEL

FROM project AS release-wheel
COPY ops/ ops/
COPY serving/ serving/
COPY worker/ worker/
RUN $WHEEL

# The images. Each has two layers of ours, the large one first: a change of code sends and stores only the second.
# pip compiles to bytecode itself.
FROM python:${PYTHON} AS program
ENV PATH=/opt/millrace/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_ROOT_USER_ACTION=ignore \
    INSTALL="pip --disable-pip-version-check --no-cache-dir --python /opt/millrace/bin/python install --no-deps --no-index"
# Volumes take their owners from these. The owner is a number, so that an orchestrator can see that it is not root.
RUN mkdir /jobs /models-cache /release && chown 10001:10001 /jobs /models-cache /release
WORKDIR /srv

FROM program AS api
COPY --from=api-environment /opt/millrace /opt/millrace
RUN --mount=type=bind,from=api-wheel,source=/wheels,target=/wheels $INSTALL /wheels/*.whl
ENV MILLRACE_SERVING_HOST=0.0.0.0 MILLRACE_JOBS_FOLDER=/jobs
USER 10001:10001
EXPOSE 8000 8001
# Live, not ready: readiness depends on the workers, and restarting the API would not bring one back.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", "\
import http.client; \
api = http.client.HTTPConnection('127.0.0.1', 8000, timeout=2); \
api.request('GET', '/v2/health/live'); \
raise SystemExit(api.getresponse().status != 200)"]
ENTRYPOINT ["python", "-m", "serving"]

FROM program AS worker
COPY --from=worker-environment /opt/millrace /opt/millrace
RUN --mount=type=bind,from=worker-wheel,source=/wheels,target=/wheels $INSTALL /wheels/*.whl
ENV ORT_DISABLE_TELEMETRY=1 MILLRACE_WORKER_MODELS=/models MILLRACE_WORKER_MODELS_CACHE=/models-cache
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "worker.health"]
ENTRYPOINT ["python", "-m", "worker"]

FROM program AS jobs
COPY --from=jobs-environment /opt/millrace /opt/millrace
RUN --mount=type=bind,from=jobs-wheel,source=/wheels,target=/wheels $INSTALL /wheels/*.whl
ENV MILLRACE_JOBS_FOLDER=/jobs
USER 10001:10001
ENTRYPOINT ["python", "-m", "jobs"]

# Copies itself into a volume, from which compose's standby runs it, and then only stays.
FROM program AS release
COPY --from=release-environment /opt/millrace /opt/millrace
RUN --mount=type=bind,from=release-wheel,source=/wheels,target=/wheels $INSTALL /wheels/*.whl
USER 10001:10001
ENTRYPOINT ["sh", "-c", "trap 'exit 0' TERM; python -m ops.standby publish /opt/millrace /release && sleep infinity & wait"]
