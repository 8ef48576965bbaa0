"""Folders of CLIP and SigLIP, opened: encoders of images and texts."""

from mrl_jax.interop.towers.folder import open_folder as open_folder
