"""The output of ptxas is read as it is printed."""

import ptxas

OUTPUT = """\
ptxas info    : 1 bytes gmem
ptxas info    : Compiling entry function '_Z1fv' for 'sm_90a'
ptxas info    : Function properties for _Z1fv
    48 bytes stack frame, 58 bytes spill stores, 136 bytes spill loads
ptxas info    : Used 168 registers, used 3 barriers, 48 bytes cumulative stack size
ptxas info    : Compiling entry function '_Z1gi' for 'sm_90a'
ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized
ptxas info    : Function properties for _Z1gi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
"""


def test_registers_and_spills_are_read_per_kernel():
    first, second = ptxas.parse(OUTPUT)
    assert first == dict(
        kernel="_Z1fv", arch="sm_90a", stack=48, spill_stores=58, spill_loads=136, registers=168
    )
    assert (second["kernel"], second["registers"], second["spill_stores"]) == ("_Z1gi", 32, 0)


def test_serialized_products_are_found():
    (line,) = ptxas.warnings_of(OUTPUT)
    assert "C7510" in line and ptxas._SERIALIZED.search(OUTPUT)
    assert not ptxas.warnings_of(OUTPUT.replace("(C7510)", "(C7600)"))
