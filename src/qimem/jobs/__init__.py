"""Background work: one leased runner, so that any number of workers run each task once."""
