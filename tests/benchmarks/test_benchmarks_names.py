"""The benchmark of the registry yields its figures; how fast anything is, is not looked at."""

from __future__ import annotations

import pytest

from benchmarks.names import measure_engines, measure_nodes


def test_engines_tell_what_a_name_costs() -> None:
    figures = measure_engines(3000)
    assert figures["names"] == 3000
    assert figures["messages"] > 10
    assert 100 < figures["bytes_of_a_name"] <= 500
    assert 100 < figures["bytes_of_a_name_at_a_holder"] <= 500


@pytest.mark.slow
def test_nodes_learn_all_names_and_a_newcomer_too() -> None:
    figures = measure_nodes(1000, 2, one=False)
    assert (figures["names"], figures["members"], figures["holders"]) == (1000, 3, 2)
    assert len(figures["join_s"]) == 3
    assert figures["find_us"] > 0
