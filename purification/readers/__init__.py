"""Readers of data sets: every format becomes parts of labels and a function that reads chosen images in turn."""
