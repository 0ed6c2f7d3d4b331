"""Who is whose neighbour: the same for all who know the same members, and never out of reach."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from steinadler.membership.overlay import Overlay

NAMES = st.dictionaries(st.sampled_from([f"n{n}" for n in range(60)]), st.booleans(), min_size=1)


def overlay_of(members: dict[str, bool], mesh_size: int = 4, rings: int = 2) -> Overlay:
    overlay = Overlay(mesh_size, rings)
    for name, listens in members.items():
        overlay.add(name, listens=listens)
    return overlay


@given(NAMES)
def test_both_ends_know_that_they_are_neighbours(members: dict[str, bool]) -> None:
    overlay = overlay_of(members)
    for name in members:
        neighbours = overlay.neighbours_of(name)
        assert len(set(neighbours)) == len(neighbours)
        assert name not in neighbours
        assert set(neighbours) <= members.keys()
        assert all(name in overlay.neighbours_of(other) for other in neighbours)


@given(NAMES)
def test_whoever_only_dials_out_has_a_neighbour_that_listens_m3(members: dict[str, bool]) -> None:
    overlay = overlay_of(members)
    listening = {name for name, listens in members.items() if listens}
    for name in members.keys() - listening:
        ways_in = listening & {*overlay.neighbours_of(name)}
        assert len(ways_in) >= min(2, len(listening))


@given(NAMES, NAMES)
def test_the_order_in_which_members_came_and_went_does_not_matter(
    members: dict[str, bool], others: dict[str, bool]
) -> None:
    overlay = overlay_of(others)
    for name in others:
        overlay.remove(name)
    for name, listens in reversed(members.items()):
        overlay.add(name, listens=listens)
    plain = overlay_of(members)
    for name in (*members, "a stranger"):
        assert overlay.neighbours_of(name) == plain.neighbours_of(name)


def test_where_all_listen_nobody_has_more_than_two_on_each_ring() -> None:
    overlay = overlay_of(dict.fromkeys((f"n{n}" for n in range(500)), True), 32, 6)
    assert max(len(overlay.neighbours_of(f"n{n}")) for n in range(500)) == 12
