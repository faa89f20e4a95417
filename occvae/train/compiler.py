"""What torch.compile needs from the machine."""

import importlib.util
import os
import shutil

from occvae.errors import UserError

_COMPILERS = ("c++", "g++", "clang++")


def check_compiler(device_type: str) -> None:
    """Raises a UserError if torch.compile cannot work for a device, "cpu" or "cuda"."""
    named = os.environ.get("CXX")
    missing = []
    if not any(map(shutil.which, (named,) if named else _COMPILERS)):
        missing.append("a C++ compiler" + (f" (CXX is {named})" if named else ""))
    if device_type == "cuda" and importlib.util.find_spec("triton") is None:
        missing.append("the package triton")
    if missing:
        raise UserError(
            f"compile=true needs {' and '.join(missing)}, not found here; set compile=false"
        )
