"""Names are mostly common ones, the others are new nearly every time, and the same seed gives the same."""

from collections import Counter
from random import Random

from data_prep.curriculum import names


def test_invented_names_are_new_nearly_every_time() -> None:
    rng = Random(3)
    drawn = Counter(names.draw(rng) for _ in range(10_000))
    invented = {name: count for name, count in drawn.items() if name not in names.COMMON}
    assert 3_500 < sum(invented.values()) < 4_500
    assert len(invented) > 0.85 * sum(invented.values())


def test_every_name_is_one_capitalised_word() -> None:
    rng = Random(4)
    assert all(name.isalpha() and name.isascii() and name == name.capitalize() and 2 <= len(name) <= 20 for name in (names.draw(rng) for _ in range(5_000)))


def test_several_are_different_and_come_from_the_seed() -> None:
    for seed in range(300):
        found = names.several(Random(seed), 5)
        assert len(set(found)) == 5
        assert found == names.several(Random(seed), 5)
