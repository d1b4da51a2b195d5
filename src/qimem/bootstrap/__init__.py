"""Composition root: settings → adapters → services. The only code that wires, and the best map of the house."""
