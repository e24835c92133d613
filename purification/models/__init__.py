"""Networks, all adapted to one convention (see `denoisers` and `classifiers`)."""
