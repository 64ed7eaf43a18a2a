"""The names of the package: all import, none costs time before it is used, and none vanishes."""

import pytest
from support.programs import printed
from support.public_names import COMMAND, changes, interface, recorded

import dien_jax

pytestmark = pytest.mark.fast


def test_public_names_are_listed():
    assert set(dien_jax.__all__) <= set(dir(dien_jax))


def test_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'ranker_of'"):
        dien_jax.ranker_of  # noqa: B018


def test_import_of_the_package_imports_no_jax():
    code = "import dien_jax, sys; print([n for n in ('jax', 'numpy', 'rich') if n in sys.modules])"
    assert printed(code) == "[]\n"


def test_no_public_name_parameter_or_flag_has_vanished_and_every_one_is_recorded():
    missed, new = changes(recorded(), interface())
    assert not missed, (
        "\n".join(missed) + "\nUsers may need these. Deprecate them first, and say so in "
        "CHANGELOG.md (docs/stability.md, Deprecation). Where they were never released, or a "
        f"major version removes them: {COMMAND}"
    )
    assert not new, (
        "\n".join(new) + "\nThese are public from the next release on; a parameter of what "
        f"existed needs a default. Say so in CHANGELOG.md, and record them: {COMMAND}"
    )


def test_changes_of_the_interface_are_named():
    before = {"f": ["x", "*", "y=", "z="], "train --order": ["auto", "sorted"], "g": []}
    after = {"f": ["x", "*", "z=", "y", "w="], "train --order": ["auto"], "h": []}
    missed, new = changes(before, after)
    assert missed == ["f: y= is gone", "g is gone", "train --order: sorted is gone"]
    assert new == ["f: w= is new", "f: y is new", "h is new"]
    missed, new = changes({"f": ["x", "y"]}, {"f": ["y", "x"]})
    assert (missed, new) == (["f: the order was x, y"], [])
