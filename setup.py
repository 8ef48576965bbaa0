"""Installs configs/ as mrl_jax/configs; all else is in pyproject.toml."""

from setuptools import find_packages
from setuptools import setup

setup(
  packages=[*find_packages(include=['mrl_jax*']), 'mrl_jax.configs'],
  package_dir={'mrl_jax.configs': 'configs'},
)
