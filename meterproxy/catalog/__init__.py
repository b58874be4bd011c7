"""Catalog: what models cost and how much they can read and write, from maintained data and the operator's settings."""
