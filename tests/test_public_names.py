"""The names of the package: all import, and none costs time before it is used."""

import subprocess
import sys

import pytest

import dien_jax


@pytest.mark.parametrize("name", dien_jax.__all__)
def test_public_name_imports(name):
    assert getattr(dien_jax, name) is not None
    assert name in dir(dien_jax)


def test_public_names_are_those_of_the_documentation():
    lines = """
    Config MeshConfig ModelConfig OptimConfig TrainConfig preset PRESETS
    Feature Schema Dataset DatasetWriter open_dataset Loader Batch
    InterestModel fit resume RunResult load_run score_split
    Ranker Ranking RankRequest auc gauc logloss UserError __version__
    """
    assert sorted(dien_jax.__all__) == sorted(lines.split())


def test_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="no attribute 'ranker_of'"):
        dien_jax.ranker_of  # noqa: B018


def test_import_of_the_package_imports_no_jax():
    code = "import dien_jax, sys; print([n for n in ('jax', 'numpy', 'rich') if n in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout == "[]\n"
