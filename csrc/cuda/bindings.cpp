// Module entry of occvae._C_cuda; the schemas are in csrc/bindings.cpp.
#include <Python.h>

#include "../common.h"

OCCVAE_PYTHON_MODULE(_C_cuda)
