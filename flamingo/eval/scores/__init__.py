"""Metrics of few-shot evaluation, each equal to its official script."""
