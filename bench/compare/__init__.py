"""The product beside another server of its kind, on the same cores, with the same load, in one run."""
