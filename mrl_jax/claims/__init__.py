"""The findings of the paper, judged by finished runs."""
