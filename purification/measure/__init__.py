"""What is measured on a purifier; one module per quantity, one row per image."""
