# One image for the dashboard and all workers; docker-compose.yml says which is which.
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
RUN pip install -r requirements.txt

# Volumes mounted over these folders take their owner and mode from here.
RUN useradd --create-home --uid 1000 dermslim && mkdir /state /images \
    && chown dermslim:dermslim /state /images && chmod 700 /state
COPY core core
COPY jobs jobs
COPY dashboard dashboard
RUN python -m compileall -q core jobs dashboard

# By number, so that a host can tell that it is not root.
USER 1000:1000
EXPOSE 8501
CMD ["python", "-m", "streamlit", "run", "dashboard/server.py"]

# The same with NVIDIA's libraries, for the `train` worker of a host with a GPU.
FROM base AS gpu
USER 0:0
RUN pip install "tensorflow[and-cuda]==$(sed -n 's/^tensorflow==\([0-9.]*\).*/\1/p' requirements.txt)"
USER 1000:1000

# What `docker build .` makes without a target.
FROM base AS cpu
