"""Defences whose robust accuracy is known exactly, and what evaluation protocols report of them."""
