"""torchvision and timm are imported without the compiler of torch, which loads when it is used."""

import pytest

from tests.fresh_process import run_fresh

BUILD = "occvae.create_model({arch!r}, image_size=32, {option}={name!r})"


@pytest.mark.parametrize(
    ("arch", "option", "name"),
    [
        ("vitocc", "encoder", "levit_128s"),
        ("onet", "encoder", "resnet18"),
        ("pix2vox-a", "backbone", "resnet18"),
    ],
)
def test_building_a_model_does_not_import_the_compiler(arch, option, name):
    build = BUILD.format(arch=arch, option=option, name=name).replace("32", "128")
    run_fresh(
        f"import sys, occvae; {build}; "
        "assert 'torchvision' in sys.modules; "
        "assert not [name for name in sys.modules if name.startswith('torch._dynamo')]"
    )


def test_the_compiler_works_afterwards():
    run_fresh(
        "import torch, occvae\n"
        f"{BUILD.format(arch='onet', option='encoder', name='resnet18')}\n"
        "import torch._dynamo.utils as utils\n"
        "from torchvision.ops import roi_align\n"
        "from torchvision.ops.roi_align import is_compile_supported\n"
        "assert is_compile_supported('cpu') == utils.is_compile_supported('cpu')\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(1)) == 1\n"
        "box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])\n"
        "assert roi_align(torch.ones(1, 1, 8, 8), box, 1).item() == 1\n"
    )


def test_a_function_that_is_decorated_inside_works():
    run_fresh(
        "import sys, torch\n"
        "from occvae.system.deferred_import import without_dynamo\n"
        "with without_dynamo():\n"
        "    @torch.compiler.disable\n"
        "    def double(x, scale=2):\n"
        "        return scale * x\n"
        "assert 'torch._dynamo' not in sys.modules and double.__name__ == 'double'\n"
        "assert (double(3), double(3, scale=4)) == (6, 12)\n"
        "assert sys.modules['torch._dynamo'].__file__\n"
    )


def test_a_function_called_inside_loads_the_compiler():
    run_fresh(
        "import sys\n"
        "from occvae.system.deferred_import import without_dynamo\n"
        "with without_dynamo():\n"
        "    from torch._dynamo.utils import is_compile_supported\n"
        "    assert is_compile_supported('cpu') in (False, True)\n"
        "    real = sys.modules['torch._dynamo.utils']\n"
        "assert sys.modules['torch._dynamo.utils'] is real and real.__file__\n"
        "with without_dynamo():\n"
        "    assert sys.modules['torch._dynamo.utils'] is real\n"
        "assert sys.modules['torch._dynamo.utils'] is real\n"
    )
