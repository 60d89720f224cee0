"""The demo: the whole loop on real, labelled data, by the same commands as in production."""
