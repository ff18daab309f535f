"""Settings that follow from others."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from core.settings import Settings


def test_links_lead_to_the_port_unless_told_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUILIU_BASE_URL", raising=False)
    monkeypatch.setenv("HUILIU_PORT", "8123")
    assert Settings(home=tmp_path, _env_file=None).base_url == "http://127.0.0.1:8123"
    monkeypatch.setenv("HUILIU_BASE_URL", "https://shop.example")
    assert Settings(home=tmp_path, _env_file=None).base_url == "https://shop.example"
    monkeypatch.setenv("HUILIU_PORT", "x")
    with pytest.raises(ValidationError, match="port"):
        Settings(home=tmp_path, _env_file=None)
