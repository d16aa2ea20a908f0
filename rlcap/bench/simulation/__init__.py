"""The real pipeline with models that sleep: how large a cluster must be, before it is rented."""
