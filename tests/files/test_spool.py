"""Arrays beside the output: zeros, writable, and no name left behind."""

import numpy as np
import pytest

from restorectl.errors import OutputError
from restorectl.files import atomic


@pytest.mark.parametrize("held", [0, 1 << 20])
def test_zeros_can_be_written_and_leave_no_file(tmp_path, held):
    made = atomic.spooled_zeros((3, 5, 7), tmp_path, held)
    assert made.dtype == np.float32
    assert not made.any()
    made[1] += 2
    assert made.sum() == 70
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        atomic.spooled_zeros((3,), tmp_path / "missing", 0)
