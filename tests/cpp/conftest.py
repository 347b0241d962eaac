"""Fixtures of the C++ tests: the folders with the programs, built once."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import build


@pytest.fixture(scope="session")
def examples() -> Path:
    return build("examples/cpp")


@pytest.fixture(scope="session")
def programs() -> Path:
    return build("tests/cpp")
