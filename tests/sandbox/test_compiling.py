"""Triton compiles its launcher inside a sandbox: compiler and headers are in sight, and its cache can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloister import compiler

CODE = """
import sys
from cloister import compiler
from cloister.sandbox import harden_process
harden_process()
assert compiler.missing() is None, compiler.missing()
from triton.runtime.build import compile_module_from_src
module = compile_module_from_src(sys.stdin.read(), "small")
print(module.__file__, module.answer())
"""

SOURCE = b"""
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *unused) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "small", "", -1, methods};
PyMODINIT_FUNC PyInit_small(void) { return PyModule_Create(&definition); }
"""


@pytest.mark.skipif(
    compiler.missing() is not None, reason="there is no C compiler here, or no header of Python"
)
def test_triton_compiles_what_it_needs_in_a_sandbox(inside: Callable[..., Any]) -> None:
    ran = inside(CODE, stdin=SOURCE)
    assert ran.status == 0, ran.errors
    place, answer = ran.output.split()
    assert place.startswith("/tmp/cache/triton/") and answer == "42"
