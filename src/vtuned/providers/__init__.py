"""Who fine-tunes: the untrusted side."""
