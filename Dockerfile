# One image for the dashboard and all workers; docker-compose.yml sets the command of each.
FROM python:3.11-slim AS base

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    DATA_DIR=/state \
    DATA_ROOTS=/images \
    NUMBA_CACHE_DIR=/tmp/numba \
    KERAS_HOME=/tmp/keras \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 \
    STREAMLIT_SERVER_FILE_WATCHER_TYPE=none

WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-deps --require-hashes --requirement requirements.txt

# A volume takes its owner and its mode from the folder that it is mounted over.
RUN useradd --create-home --uid 1000 dermslim && mkdir /state /images \
    && chown dermslim:dermslim /state /images && chmod 700 /state
COPY pyproject.toml README.md LICENSE ./
COPY core core
COPY jobs jobs
COPY dashboard dashboard
COPY docs/results docs/results
RUN pip install --no-deps --no-build-isolation --editable . && python -m compileall -q core jobs dashboard

# A number, so that Kubernetes and others can check that the user is not root.
USER 1000:1000
EXPOSE 8501
CMD ["python", "-m", "streamlit", "run", "dashboard/server.py"]

# The same with NVIDIA's libraries, for the `train` worker of a host with a GPU.
FROM base AS gpu
USER 0:0
COPY requirements-gpu.txt ./
RUN pip install --no-deps --require-hashes --requirement requirements-gpu.txt
USER 1000:1000

# The default: `docker build .` without a target builds this stage.
FROM base AS cpu
