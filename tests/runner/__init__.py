"""Runs the parts of the suite, each within its printed time budget, and counts what they prove."""
