"""Formats that datasets are made from, one file each."""
