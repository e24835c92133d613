"""One stage per rule: a function of paths and values, and the lines that wire it to Snakemake."""
