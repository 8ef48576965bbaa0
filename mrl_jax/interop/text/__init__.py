"""Text encoders in Hugging Face's and sentence-transformers' folders."""
