"""What other programs may rely on: two names, the type marker, one command, one licence."""

from __future__ import annotations

import tomllib

import qimem
from tests.architecture.sources import ROOT, SOURCE, modules


def test_the_package_exports_exactly_its_promise() -> None:
    assert sorted(qimem.__all__) == ["QimemError", "__version__"]
    assert all(hasattr(qimem, name) for name in qimem.__all__)


def test_every_name_in_an_all_exists_and_is_sorted() -> None:
    import importlib

    for module in modules():
        if "__all__" in module.text:
            loaded = importlib.import_module(
                module.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            )
            assert loaded.__all__ == sorted(loaded.__all__), module.path
            assert all(hasattr(loaded, name) for name in loaded.__all__), module.path


def test_types_are_shipped() -> None:
    assert (SOURCE / "qimem" / "py.typed").is_file()


def test_the_command_and_the_license_are_what_the_metadata_say() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"qimem": "qimem.cli.main:main"}
    assert project["license"] == "Apache-2.0"
    license_text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in license_text
    assert "END OF TERMS AND CONDITIONS" in license_text
