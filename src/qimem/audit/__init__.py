"""The record of what was done: durable before the answer, chained, signed, verifiable offline."""
