"""One contract: names, arguments and defaults of the kernels are those of the reference."""

from __future__ import annotations

import inspect

import pytest

from fastmlp.kernels import catalogue, load_backend, reference

TABLES = [catalogue.ACTIVATIONS, catalogue.LOSSES, catalogue.OPTIMIZERS]


def arguments(kernel):
    """Return name, kind and default of each argument."""
    parameters = inspect.signature(kernel).parameters.values()
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("name", reference.__all__)
def test_arguments_are_those_of_the_reference(kernels, name):
    assert arguments(getattr(kernels, name)) == arguments(getattr(reference, name))


@pytest.mark.parametrize("table", TABLES, ids=["activations", "losses", "optimizers"])
def test_codes_of_a_table_are_its_positions(table):
    assert [row.code for row in table] == list(range(len(table)))
    assert all(catalogue.CODES[row.name.upper()] == row.code for row in table)


@pytest.mark.parametrize("constant", ["ACTIVATION_VALUES", "ACTIVATION_GRADIENTS"])
def test_reference_has_every_activation(constant):
    rows = (*catalogue.ACTIVATIONS, *catalogue.OUTPUT_ACTIVATIONS)
    assert sorted(getattr(reference, constant)) == [row.code for row in rows]


def test_backends_are_loaded_once(backend):
    assert load_backend(backend) is load_backend(backend)
