"""HEIC images of phones, which Pillow reads with another package, and AVIF images."""

import functools

FIRST_BYTES = 64
"""Bytes of a file that `describe_heif` needs."""
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF = {b"avif", b"avis"}


@functools.cache
def register_heif() -> bool:
    """Makes Pillow read HEIC. Returns whether the package for it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def describe_heif(start: bytes) -> str | None:
    """Tells what is needed to read a file that Pillow did not recognize.

    Args:
        start: The first bytes of the file.

    Returns:
        A phrase, or None if the file is neither HEIC nor AVIF.
    """
    if start[4:8] != b"ftyp":
        return None
    brand, others = start[8:12], start[16:FIRST_BYTES]
    brands = {brand, *(others[place : place + 4] for place in range(0, len(others), 4))}
    if brands & _AVIF:
        return "this Pillow reads no AVIF: pip install --upgrade pillow"
    if not brands & _HEIC:
        return None
    if register_heif():
        return "damaged HEIC image"
    return "HEIC: pip install pillow-heif"
