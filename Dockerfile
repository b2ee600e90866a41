# A RunPod Serverless worker with a GPU: ComfyUI, and the worker that drives it.
#
#   docker build -t comfy-remote-worker .      (in the repository's root)
#
# No models are in it: they come from a network volume, or are fetched. docs/containers.md says
# what the build arguments do, what fills the image, and how to add custom nodes.
#
# What changes seldom comes first: a change of ours rebuilds the last layers, a few MB.

# Not a `runtime` or `cudnn-runtime` image: PyTorch's wheels bring CUDA's and cuDNN's libraries, so
# theirs would be there twice (some GB). The driver comes from the host in any case, and this image
# states which one it needs, so that an older host says so instead of failing later.
# By digest: whoever owns a tag can move it to other code.
# For CUDA=cu128: nvidia/cuda:12.8.1-base-ubuntu24.04@sha256:133c78a0575303be34164d0b90137a042172bdf60696af01a3c424ab402d86e2
ARG BASE_IMAGE=nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1

# ---- The system -------------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS system
# libgl1 and libglib2.0 are what OpenCV, and so every second custom node, does not start without;
# nodes for videos call ffmpeg; openssh-server is started for PUBLIC_KEY only.
# true: a C compiler, for what torch.compile, Triton and some custom nodes build when they run.
ARG COMPILER=false
# More packages, for custom nodes that need them:
ARG EXTRA_APT_PACKAGES=""
# Ubuntu's archive keeps one version of a package: a pinned one cannot be installed for long.
# hadolint ignore=DL3008,SC2086
RUN apt-get update \
    && if [ "${COMPILER}" = true ]; then compiler="build-essential ninja-build python3.12-dev"; fi \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates ffmpeg git libgl1 libglib2.0-0t64 libtcmalloc-minimal4t64 openssh-server \
        python3.12 python3.12-venv tini ${compiler:-} ${EXTRA_APT_PACKAGES} \
    && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
    && mkdir -p /run/sshd
COPY docker/requirements-uv.txt /tmp/
RUN python3.12 -m venv /opt/uv \
    && /opt/uv/bin/pip install --no-cache-dir --require-hashes --requirement /tmp/requirements-uv.txt \
    && ln -s /opt/uv/bin/uv /usr/local/bin/uv
# Compiled once here, not at every cold start. No cache: it would stay in the layers.
ENV PYTHONUNBUFFERED=1 \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never

# ---- The worker's Python: its own, so that no custom node can break it -------------------------
FROM system AS worker
COPY docker/requirements-worker.txt /tmp/
RUN uv venv --python 3.12 /opt/worker \
    && uv pip install --python /opt/worker/bin/python --require-hashes \
        --requirement /tmp/requirements-worker.txt

# ---- The image --------------------------------------------------------------------------------
FROM system
# Below CUDA 13.0, ComfyUI's own kernels switch off. cu128 is for hosts with an older driver.
ARG CUDA=cu130
COPY docker/requirements-torch.txt /opt/constraints/torch.txt
# --seed: some custom nodes call pip.
RUN uv venv --python 3.12 --seed /opt/venv \
    && uv pip install --python /opt/venv/bin/python --requirement /opt/constraints/torch.txt \
        --index-url "https://download.pytorch.org/whl/${CUDA}"
# From here on, `uv pip install` and `pip install` are ComfyUI's, and leave PyTorch as it is.
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    UV_CONSTRAINT=/opt/constraints/torch.txt \
    PIP_CONSTRAINT=/opt/constraints/torch.txt

# ComfyUI 0.33.0, by its commit: a tag can be moved, too.
ARG COMFYUI_COMMIT=2f35f4a08176d993cded35dac3332be4f7287f41
RUN git init --quiet /comfyui \
    && git -C /comfyui fetch --quiet --depth 1 https://github.com/Comfy-Org/ComfyUI.git \
        "${COMFYUI_COMMIT}" \
    && git -C /comfyui checkout --quiet --detach FETCH_HEAD
COPY docker/requirements-comfyui.txt docker/no-template-media.txt /opt/constraints/
# First what that commit needs, by hash. The second finds nothing to do then: it installs what
# another commit needs.
RUN uv pip install --no-deps --require-hashes --requirement /opt/constraints/requirements-comfyui.txt \
    && uv pip install --requirement /comfyui/requirements.txt \
        --override /opt/constraints/no-template-media.txt

COPY comfy_remote/worker/nodes/install_custom_nodes.py docker/custom_nodes.txt /opt/custom_nodes/
RUN python /opt/custom_nodes/install_custom_nodes.py \
        /opt/custom_nodes/custom_nodes.txt /comfyui/custom_nodes

# A user for whoever wants one (RUN_AS below, or docker run --user 10001): what ComfyUI writes to
# is theirs.
RUN useradd --create-home --uid 10001 comfy \
    && mkdir -p /comfyui/input /comfyui/output /comfyui/temp /comfyui/user \
    && chown -R comfy /comfyui/input /comfyui/output /comfyui/temp /comfyui/user /comfyui/models

COPY --from=worker /opt/worker /opt/worker
COPY pyproject.toml README.md LICENSE /opt/comfy-remote/
COPY comfy_remote /opt/comfy-remote/comfy_remote
# Our package is without constraints: PyTorch is none of its business.
RUN uv pip install --python /opt/worker/bin/python --no-deps /opt/comfy-remote
# In ComfyUI it is a node pack: the nodes by which values go into a workflow and come out of it.
COPY __init__.py requirements.txt /opt/comfy-remote/
RUN uv pip install --requirement /opt/comfy-remote/requirements.txt \
    && ln -s /opt/comfy-remote /comfyui/custom_nodes/comfy-remote
COPY serverless_worker.py docker/start.sh docker/extra_model_paths.yaml docker/healthcheck.py /

ARG REQUIRE_GPU=true
ENV COMFYUI_DIR=/comfyui \
    COMFYUI_PYTHON=/opt/venv/bin/python \
    COMFY_REMOTE_PYTHON=/opt/worker/bin/python \
    COMFY_REMOTE_REQUIRE_GPU=${REQUIRE_GPU}
HEALTHCHECK --interval=30s --timeout=10s --start-period=15m \
    CMD ["/opt/worker/bin/python", "/healthcheck.py"]
WORKDIR /
# Root, as everything on RunPod: its volumes are written by pods, which are root, and this worker
# has to write to the same folders.
ARG RUN_AS=root
USER ${RUN_AS}
# tini is process 1: it hands signals on, and clears up after what custom nodes leave behind.
ENTRYPOINT ["tini", "--"]
CMD ["/start.sh"]
