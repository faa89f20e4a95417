"""Readers for the file formats of published datasets."""
