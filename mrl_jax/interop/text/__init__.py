"""Text encoders in Hugging Face's and sentence-transformers' folders."""

from mrl_jax.interop.text.hand_over import write as write
