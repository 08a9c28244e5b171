"""Reports: values in, text out. Nothing here prints; `vtuned.cli` does."""
