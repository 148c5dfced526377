"""Sets up what tests need before JAX starts: eight virtual CPU devices, a cache, folders to import from."""

import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path


def xla_flags(devices: int | None) -> str:
    """Virtual devices, or none, and machine code as it comes: tests compile far more than they compute."""
    flags = ["--xla_backend_optimization_level=0"]
    if devices is not None:
        flags.append(f"--xla_force_host_platform_device_count={devices}")
    # Halves what the step takes to compile; XLA ends the process where it does not know a flag.
    if importlib.metadata.version("jaxlib").split(".")[:2] == ["0", "10"]:
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = xla_flags(8)
os.environ["HF_HUB_OFFLINE"] = "1"
# PyTorch's threads wait for one another in a busy loop, which takes minutes beside anything else that runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HOME", str(Path(tempfile.gettempdir()) / "ti_flax-tests-hub"))

os.environ.setdefault("TI_FLAX_CACHE", str(Path(tempfile.gettempdir()) / "ti_flax-tests-cache"))
# As variables, which the processes that tests start inherit: none compiles what another has compiled.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / "ti_flax-tests-jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

# Here, because it reads its variables once: a test that changes them must not be the first to import it.
import huggingface_hub.constants  # noqa: E402, F401
import jax  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, *(ROOT / name for name in ("scripts", "demo", "benchmarks", "tests/support"))):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

jax.config.update("jax_threefry_partitionable", True)
