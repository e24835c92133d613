"""Anomaly detection by reconstruction (AdvRAD): error maps, detectors, certificates, and what they are tried on."""
