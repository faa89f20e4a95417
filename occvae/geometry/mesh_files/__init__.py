"""Strict readers of mesh files: one module per format, each from bytes to vertices and faces."""
