"""Readers of the file types that published datasets come in."""
