"""Fit, claims."""
