"""Renderings of meshes, turntables and HTML reports."""
