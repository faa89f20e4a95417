// The entry point of the module occvae._C_cuda. The schemas are in csrc/bindings.cpp.
#include <Python.h>

#include "../common.h"

OCCVAE_PYTHON_MODULE(_C_cuda)
