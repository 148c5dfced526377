#   docker build --tag ti-flax .
#   docker run --rm --volume "$PWD:/home/artist/work" ti-flax demo
#
# For NVIDIA GPUs: --build-arg ACCELERATOR=cuda, and docker run --gpus all; for TPUs: tpu, and docker run --privileged.
FROM python:3.12-slim
ARG ACCELERATOR=cpu
WORKDIR /opt/ti_flax
COPY requirements_lock_${ACCELERATOR}.txt ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements_lock_${ACCELERATOR}.txt
COPY pyproject.toml setup.py requirements_flax.txt README.md LICENSE ./
COPY ti_flax ti_flax
COPY assets assets
COPY configs configs
RUN pip install --no-cache-dir --no-deps .
RUN useradd --create-home artist && install --directory --owner artist /home/artist/work /home/artist/.cache
USER artist
WORKDIR /home/artist/work
ENTRYPOINT ["ti-flax"]
CMD ["--help"]
