"""Whose folder a working folder is."""

import pytest

from tessera.config import UserError
from tessera.presets.lookup import load_run_preset
from tessera.presets.miniature import miniature_smoke
from tessera.presets.working_folder import check, claim


def test_what_a_killed_call_left_of_its_first_file_is_in_nobodys_way(tmp_path):
    (tmp_path / ".tmp-0123abcd-config.json").write_text("{")
    claim(tmp_path, miniature_smoke())
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_of_another_configuration_or_with_others_files_is_refused(tmp_path):
    claim(tmp_path / "out", miniature_smoke())
    check(tmp_path / "out", miniature_smoke())
    with pytest.raises(UserError, match="was made otherwise"):
        check(tmp_path / "out", load_run_preset("miniature"))
    with pytest.raises(UserError, match="has files in it that tessera did not make"):
        check(tmp_path, miniature_smoke())
