"""Bare hosts over ssh into one Ray cluster, and back. The only room that runs ssh or docker."""
