"""One environment, told in four places: they must agree.

pyproject.toml says what is needed, constraints.txt which version of it the book was
made with, environment.yml the same to conda and Binder, and the interpreter that runs
these tests has it installed.
"""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import yaml
from packaging.metadata import Metadata
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): Version(pin) for name, pin in found}


def requirements():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found = [Requirement(text) for texts in lists for text in texts]
    return [r for r in found if r.name != "flatlab"]


def test_every_requirement_has_a_pin_that_satisfies_it():
    pinned = pins()
    for requirement in requirements():
        pin = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), (str(requirement), str(pin))


def test_the_package_itself_needs_little_and_pins_nothing():
    needed = [Requirement(text) for text in PROJECT["dependencies"]]
    assert {r.name for r in needed} == {"torch", "numpy"}
    for requirement in needed:
        assert {s.operator for s in requirement.specifier} == {">="}


def test_what_is_installed_is_what_is_pinned():
    different = {}
    for name, pin in pins().items():
        try:
            installed = Version(version(name))
        except PackageNotFoundError:
            continue  # needed on another platform only
        # torch adds its build to the version, as in 2.13.0+cpu.
        if Version(installed.public) != pin:
            different[name] = (str(installed), str(pin))
    assert not different


def test_every_pin_can_be_installed_with_the_oldest_python_allowed():
    """Also with its first release: a Debian of 2023 has 3.11.2."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    refused = {}
    for name in pins():
        try:
            needed = metadata(name).get("Requires-Python")
        except PackageNotFoundError:
            continue  # needed on another platform only
        if needed and not SpecifierSet(needed).contains(oldest):
            refused[name] = needed
    assert not refused


def test_every_requirement_is_installed():
    for requirement in requirements():
        version(requirement.name)


def test_conda_and_binder_get_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *others, last = environment["dependencies"]
    assert [re.split("[=<>]", item)[0] for item in others] == ["python", "pip"]
    assert last == {"pip": ["-c constraints.txt", "-e .[book,test]"]}
    python = next(item for item in others if item.startswith("python")).split("=")[-1]
    assert PROJECT["requires-python"] == f">={python}"


def test_the_makefile_installs_the_same_extras():
    assert '".[book,test]"' in (ROOT / "Makefile").read_text()


def test_the_version_is_told_once_over():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == version("flatlab")


def test_importing_the_package_loads_neither_figures_nor_widgets():
    code = (
        "import sys, flatlab; "
        "print([m for m in ('matplotlib', 'sklearn', 'ipywidgets', 'anywidget', "
        "'pooch', 'mnist1d', 'IPython') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


def test_every_command_that_the_guides_name_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for guide in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / guide).read_text()
        named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", text, re.M))
        assert {first or second for first, second in named} <= targets


def test_a_release_is_built_with_its_addresses_and_all_files(tmp_path):
    source = tmp_path / "source"
    for name in subprocess.check_output(
        [
            "git",
            "ls-files",
            "flatlab",
            "*.py",
            "*.in",
            "*.toml",
            "*.yml",
            "*.md",
            "LICENSE*",
        ],
        cwd=ROOT,
        text=True,
    ).splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # First the archive of the sources, then the wheel out of that archive alone.
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, source],
        env={**os.environ, "FLATLAB_REPOSITORY": "https://example.org/us/flatlab/"},
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (told,) = (name for name in names if name.endswith("dist-info/METADATA"))
        metadata = Metadata.from_email(archive.read(told), validate=True)
    assert metadata.project_urls["Source"] == "https://example.org/us/flatlab"
    assert str(metadata.version) == PROJECT["version"]
    assert metadata.description_content_type == "text/markdown"
    package = {
        path.relative_to(ROOT).as_posix()
        for kind in ("*.py", "*.js", "*.css", "py.typed")
        for path in (ROOT / "flatlab").rglob(kind)
    }
    assert package <= names
    assert not any(name.startswith(("tests", "benchmarks", "book")) for name in names)
