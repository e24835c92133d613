"""From per-image rows to tables, claims, figures and the report. Nothing here runs a network."""
