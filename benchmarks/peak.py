"""The peak that a step is held against: the published one of an accelerator, or this machine's own."""

import time
from typing import Any

import numpy as np

_PRODUCTS = 4
# Dense TFLOP/s of a JAX device in bfloat16, and in what JAX makes of a float32 product by default (one pass
# of bfloat16 on a TPU, TF32 on a GPU), by the first words of its name. TPU: one page for each version
# of cloud.google.com/tpu/docs; a chip of v3 is two devices. GPU: NVIDIA's data sheets, without sparsity.
_PUBLISHED = {
    "TPU v3": (61.5, 61.5),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5e": (197.0, 197.0),
    "TPU v5": (459.0, 459.0),
    "TPU v5p": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
    "TPU v6e": (918.0, 918.0),
    "NVIDIA A100": (312.0, 156.0),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H100 80GB HBM3": (989.4, 494.7),
    "NVIDIA H200": (989.4, 494.7),
    "NVIDIA H200 NVL": (835.5, 417.5),
    "NVIDIA L4": (121.0, 60.0),
}


def published_rate(kind: str, dtype: str) -> float | None:
    """Returns the published FLOP per second of a device with this `device_kind`, None for an unknown one."""
    names = [name for name in _PUBLISHED if kind == name or kind.startswith((f"{name} ", f"{name}-"))]
    if not names:
        return None
    bfloat16, float32 = _PUBLISHED[max(names, key=len)]
    return 1e12 * (bfloat16 if dtype == "bfloat16" else float32)


class Matmuls:
    """Products of two large square matrices, timed a round at a time.

    A round multiplies in the step's dtype and in float32 and counts the faster one: a compiler may compute a
    bfloat16 step in float32 where the machine is faster at that, as XLA does on a CPU.

    Args:
      dtype: of the step.
      device: to multiply on. The virtual devices of a CPU share its cores.
      devices: that take part in the step.
      side: of the matrices; None takes one that keeps the device busy.
    """

    def __init__(self, dtype: str, device: Any, *, devices: int = 1, side: int | None = None):
        import jax
        import jax.numpy as jnp

        self.rates: list[float] = []
        self._side = side or (2048 if device.platform == "cpu" else 8192)
        self._sharing = devices if device.platform == "cpu" else 1
        self._wait, self._product = jax.block_until_ready, jax.jit(jnp.matmul)
        shape = (self._side, self._side)
        self._factors = [
            jax.device_put(np.full(shape, 1e-3, jnp.dtype(name)), device)
            for name in sorted({dtype, "float32"})
        ]
        for x in self._factors:
            self._wait(self._product(x, x))

    def measure(self) -> None:
        """Adds one round's FLOP per second of a device to `rates`."""
        rate = max(self._rate(x) for x in self._factors)
        self.rates.append(rate / self._sharing)

    def _rate(self, x: Any) -> float:
        began = time.perf_counter()
        # Several in a row, so that starting them does not count.
        self._wait([self._product(x, x) for _ in range(_PRODUCTS)])
        return _PRODUCTS * 2 * self._side**3 / (time.perf_counter() - began)
