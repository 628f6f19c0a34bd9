"""A sweep tries every value, and tells of each that fails."""

from __future__ import annotations

import pytest

from sweeping import sweep


@sweep("code")
@pytest.mark.parametrize("step", [1, 3])
def test_every_value_is_tried_beside_other_parameters(code: int, step: int) -> None:
    """What it wraps is called by name, for every byte."""
    assert 0 <= code * step < 256 * step


def test_each_failure_is_named() -> None:
    """Those of assert and those of pytest.raises; the others do not hide them."""
    tried = []

    @sweep("code", range(5))
    def test(code: int) -> None:
        tried.append(code)
        assert code != 1
        if code == 3:
            with pytest.raises(ValueError, match="never"):
                pass

    with pytest.raises(BaseExceptionGroup, match="2 of 5 values of code fail") as caught:
        test()
    assert tried == [0, 1, 2, 3, 4]
    notes = [note for error in caught.value.exceptions for note in error.__notes__]
    assert notes == ["where code is 1", "where code is 3"]


def test_a_sweep_over_nothing_is_an_error() -> None:
    """It could not fail."""
    with pytest.raises(ValueError, match="nothing"):
        sweep("code", [])(lambda code: None)
