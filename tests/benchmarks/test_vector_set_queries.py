"""The figures of vector_set_queries are printed for every shape."""

import re
import sys

import vector_set_queries


def test_queries_of_each_shape_are_printed(monkeypatch, capsys):
    small = ["vector_set_queries", "--resolution", "32", "--coarse-resolution", "16"]
    monkeypatch.setattr(sys, "argv", small)
    monkeypatch.setattr(vector_set_queries, "LATENTS", 256)
    vector_set_queries.main()
    out = capsys.readouterr().out
    assert f"dense lattice at 32: {33**3:,} queries" in out
    rows = re.findall(r"^(\w+) +([\d,]+) +[\d.]+% +\d+x +[\d,]+  True$", out, re.MULTILINE)
    assert [name for name, _ in rows] == list(vector_set_queries.make_meshes())
    assert all(17**3 < int(queries.replace(",", "")) < 33**3 for _, queries in rows)
