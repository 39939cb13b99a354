"""jumps.py: what is left out is written down. What the loop makes of it: test_loop.py."""

import pytest

from bert_jax.errors import UserError
from bert_jax.training.data_skips import DataSkip, DataSkips, read_data_skips


def test_a_jump_is_found_by_the_step_and_position_that_it_starts_from(tmp_path):
  jumps = DataSkips(tmp_path, [])
  jumps.record(DataSkip(300, 2400, 2**40), write=True)
  assert jumps.after(300, 2400) == 2**40
  assert jumps.after(300, 2401) is None and jumps.after(301, 2400) is None


def test_of_several_from_one_place_the_last_one_counts_and_they_are_counted(tmp_path):
  jumps = DataSkips(tmp_path, [])
  for to in (10, 20):
    jumps.record(DataSkip(3, 5, to), write=True)
  assert jumps.after(3, 5) == 20 and jumps.from_step(3) == 2 and jumps.from_step(4) == 0


def test_jumps_are_read_again_and_only_the_first_process_writes(tmp_path):
  assert read_data_skips(tmp_path) == []
  DataSkips(tmp_path, []).record(DataSkip(1, 2, 3), write=False)
  assert read_data_skips(tmp_path) == []
  DataSkips(tmp_path, []).record(DataSkip(1, 2, 3), write=True)
  assert DataSkips(tmp_path, [list(jump) for jump in read_data_skips(tmp_path)]).after(1, 2) == 3, (
    "as they come from another process"
  )


@pytest.mark.parametrize("text", ["", "{", '[{"step": 1}]', "[3]"])
def test_a_file_that_cannot_be_read_stops_the_run(tmp_path, text):
  (tmp_path / "jumps.json").write_text(text)
  with pytest.raises(UserError, match="jumps.json cannot be read .*where this run left out data"):
    read_data_skips(tmp_path)
