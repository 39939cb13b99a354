"""jumps.py: what is left out is written down. What the loop makes of it: test_loop.py."""

import pytest

from bert_jax.errors import UserError
from bert_jax.training.data_skips import Jump, Jumps, read_jumps


def test_a_jump_is_found_by_the_step_and_position_that_it_starts_from(tmp_path):
  jumps = Jumps(tmp_path, [])
  jumps.record(Jump(300, 2400, 2**40), write=True)
  assert jumps.after(300, 2400) == 2**40
  assert jumps.after(300, 2401) is None and jumps.after(301, 2400) is None


def test_of_several_from_one_place_the_last_one_counts_and_they_are_counted(tmp_path):
  jumps = Jumps(tmp_path, [])
  for to in (10, 20):
    jumps.record(Jump(3, 5, to), write=True)
  assert jumps.after(3, 5) == 20 and jumps.from_step(3) == 2 and jumps.from_step(4) == 0


def test_jumps_are_read_again_and_only_the_first_process_writes(tmp_path):
  assert read_jumps(tmp_path) == []
  Jumps(tmp_path, []).record(Jump(1, 2, 3), write=False)
  assert read_jumps(tmp_path) == []
  Jumps(tmp_path, []).record(Jump(1, 2, 3), write=True)
  assert Jumps(tmp_path, [list(jump) for jump in read_jumps(tmp_path)]).after(1, 2) == 3, (
    "as they come from another process"
  )


@pytest.mark.parametrize("text", ["", "{", '[{"step": 1}]', "[3]"])
def test_a_file_that_cannot_be_read_stops_the_run(tmp_path, text):
  (tmp_path / "jumps.json").write_text(text)
  with pytest.raises(UserError, match="jumps.json cannot be read .*where this run left out data"):
    read_jumps(tmp_path)
