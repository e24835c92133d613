"""Diffusion purification: samplers, exact gradients, attacks and measurements.

Everything here is a function of its arguments: no global seeds, no configuration files, no folders.
"""
