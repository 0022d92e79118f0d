"""Reference values computed elsewhere (R, Bioconductor, published tables)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_CASES = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "reference_cases.json"


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """The reference cases, which lie beside the repository and are not part of it."""
    if not _CASES.exists():
        pytest.skip("../shared/fixtures/reference_cases.json is not here: reference values cannot be compared")
    return json.loads(_CASES.read_text())
