"""The whole story on real data and a real language model, offline: `vtuned demo`."""
