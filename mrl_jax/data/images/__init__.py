"""Images: from encoded bytes to RGB pixels."""
