# The app in a container, the embedded checkpoint inside; it runs as a user without rights.
#
#   docker build -t marigold-demo .                                   torch as PyPI has it: CUDA, and the CPU too
#   docker build -t marigold-demo --build-arg TORCH_INDEX=<index> .   torch's CPU builds (a fifth of the size), from
#                                                                     the index that pytorch.org names for them
#   docker run -p 127.0.0.1:7860:7860 marigold-demo                   add --gpus all for CUDA
FROM python:3.12-slim AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN python -m venv venv \
 && venv/bin/pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
 && venv/bin/pip install -c constraints.txt -r requirements.txt \
 && venv/bin/pip uninstall --yes pip

FROM python:3.12-slim
RUN pip uninstall --yes pip && useradd --uid 1000 --create-home --shell /usr/sbin/nologin marigold
COPY --from=build /app/venv /app/venv
COPY LICENSE app.py /app/
COPY marigold_demo /app/marigold_demo
WORKDIR /app
USER 1000
ENV PATH=/app/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 \
    GRADIO_SERVER_NAME=0.0.0.0 GRADIO_SERVER_PORT=7860 GRADIO_TEMP_DIR=/home/marigold/cache \
    HF_HOME=/home/marigold/models MARIGOLD_LOG_FORMAT=json \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 7860
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
ENTRYPOINT ["python", "app.py"]
