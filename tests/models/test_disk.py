"""A folder is there whole or not at all."""

import pytest

from models.disk import new_folder


def test_a_folder_that_could_not_be_filled_leaves_nothing_behind(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out") as beside:
        (beside / "half").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_there_while_it_is_filled(tmp_path):
    with new_folder(tmp_path / "out") as beside:
        (beside / "whole").write_text("whole")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "whole").exists()


def test_what_is_there_is_not_written_over(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with (
        pytest.raises(ValueError, match="out is there already; name a folder"),
        new_folder(tmp_path / "out"),
    ):
        pass
