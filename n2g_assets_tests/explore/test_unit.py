"""What pages of a unit offer."""

import pytest

from n2g_assets.explore.unit import offered_sizes


@pytest.mark.parametrize(
    ("scored", "largest", "offered"),
    [
        ((3, 5, 10, 30, 100), 100, [3, 5, 10, 30, 100]),
        ((3, 5, 10, 30, 100), 57, [3, 5, 10, 30, 57]),
        ((3, 5, 10, 30, 100), 300, [3, 5, 10, 30, 100, 300]),
        ((3, 5), 4, [3, 4]),
        ((3, 5), 0, []),
    ],
)
def test_sizes_that_have_scores_are_offered_and_the_largest(scored, largest, offered) -> None:
    assert offered_sizes(scored, largest) == offered
