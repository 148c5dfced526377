"""Dependencies of the package, read from requirements_flax.txt, and the demo's files as package data."""

from pathlib import Path

from setuptools import find_packages, setup

# Needed only where the extra of that name is asked for; requirements_flax.txt installs both.
OPTIONAL = {"datasets": "datasets", "diffusers": "torch"}

lines = Path(__file__).with_name("requirements_flax.txt").read_text(encoding="utf-8").splitlines()
wanted = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
by_name = {line.split("=")[0].split(">")[0].split("<")[0].strip(): line for line in wanted}
jax = by_name["jax"].removeprefix("jax")

setup(
    packages=[*find_packages(include=["ti_flax*"]), "ti_flax.assets", "ti_flax.configs"],
    package_dir={"ti_flax.assets": "assets", "ti_flax.configs": "configs"},
    package_data={
        "ti_flax": ["py.typed"],
        "ti_flax.assets": ["**/*"],
        "ti_flax.configs": ["*.yaml", "schema.json"],
    },
    install_requires=[line for name, line in by_name.items() if name not in OPTIONAL],
    extras_require={
        "cuda": [f"jax[cuda13]{jax}"],
        "tpu": [f"jax[tpu]{jax}"],
        "datasets": [by_name["datasets"]],
        "torch": [by_name["diffusers"], "torch>=2.6"],
        "caption": ["torch>=2.6"],
        "tag": ["onnxruntime>=1.20"],
        "tensorboard": ["tensorboardX>=2.6"],
        "completion": ["shtab>=1.7"],
        "web": ["gradio>=6"],
    },
)
