"""Rates of the product beside a floor, measured in one run on one machine."""
