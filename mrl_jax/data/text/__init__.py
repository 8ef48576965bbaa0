"""Texts: from files of pairs, scored pairs or labelled texts to batches."""
