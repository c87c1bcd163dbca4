"""A CPU without instructions for bfloat16 is warned of."""

from __future__ import annotations

import logging

import pytest

from spiral.models import precision

LIMIT = precision.LIMIT


@pytest.mark.parametrize(("ratio", "device", "warned"), [(7.5, "cpu", True), (0.4, "cpu", False), (7.5, "cuda", False)])
def test_only_a_slow_cpu_is_warned_of(monkeypatch, caplog, ratio, device, warned):
    monkeypatch.setattr(precision, "LIMIT", LIMIT)
    monkeypatch.setattr(precision, "bfloat16_ratio", lambda: ratio)
    precision.warn_of_slow_bfloat16.cache_clear()
    with caplog.at_level(logging.WARNING):
        precision.warn_of_slow_bfloat16(device)
        precision.warn_of_slow_bfloat16(device)
    assert caplog.text.count("7.5 times as long in bfloat16") == warned


def test_the_ratio_is_measured_once():
    first = precision.bfloat16_ratio()
    assert 0.01 < first < 1000
    assert precision.bfloat16_ratio() == first
