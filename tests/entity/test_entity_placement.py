"""Owners by rendezvous hash: the same for everybody, even, and moved as little as can be."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from steinadler.delivery.placement import owner_of
from steinadler.identity import EntityKey

NAMES = st.sets(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), min_size=1, max_size=12)
KEYS = [EntityKey("Cart", str(number)) for number in range(300)]


@given(NAMES, st.randoms(use_true_random=False))
def test_everybody_picks_the_same_owner(names: set[str], rng: object) -> None:
    shuffled = list(names)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    for key in KEYS[:20]:
        assert owner_of(key, shuffled) == owner_of(key, sorted(names))
        assert owner_of(key, names) in names


@given(NAMES, st.from_regex(r"[A-Z]{1,8}", fullmatch=True))
def test_who_comes_takes_only_what_it_owns_and_who_goes_leaves_only_that(
    names: set[str], newcomer: str
) -> None:
    for key in KEYS:
        before, after = owner_of(key, names), owner_of(key, names | {newcomer})
        assert after in (before, newcomer)


def test_entities_spread_evenly() -> None:
    """Each of five hosts owns a fifth of 20,000, within a twentieth of that."""
    hosts = [f"host-{number}" for number in range(5)]
    keys = (EntityKey("Cart", str(number)) for number in range(20_000))
    owned = Counter(owner_of(key, hosts) for key in keys)
    assert all(3_800 < owned[host] < 4_200 for host in hosts)


def test_a_type_and_an_id_do_not_run_into_each_other() -> None:
    """ "ab" + "c" and "a" + "bc" are two entities with two owners, for some pair of hosts."""
    hosts = [f"host-{number}" for number in range(50)]
    assert owner_of(EntityKey("ab", "c"), hosts) != owner_of(EntityKey("a", "bc"), hosts)


def test_nobody_owns_what_nobody_hosts() -> None:
    assert owner_of(KEYS[0], []) is None
