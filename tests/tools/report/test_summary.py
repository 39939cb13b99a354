"""The report of a run: its figures agree with what the run wrote."""

import pytest

from bert_jax.errors import UserError
from bert_jax.tools.report import summary
from tests.helpers.run_history import Log, begun, killed_between_saves


def facts(text):
  return {line[:20].strip(): line[20:].strip() for line in text.splitlines() if line}


def test_the_summary_tells_what_the_run_wrote(run_folder):
  told = facts(summary.run_summary(summary.read_run(run_folder)))
  assert told["steps"] == "400 of 400, finished"
  assert told["tokens seen"] == "320,000 in 3,200 rows: 3.20 passes over the corpus"
  assert told["speed"] == "5,000 tokens/s (median)"
  assert told["goodput"] == "3.8% of 1:26:40 (h:mm:ss)"
  assert told["useful steps"].split() == [
    "0:03:18",
    "3.8%",
    "399",
    "steps",
  ]  # 2 s of the first 100 were for steps 201 to 300
  assert told["down"].split() == ["1:23:20", "96.2%"]
  assert told["attempts"] == "2"
  assert told["after attempt 0"] == "killed without a word at step 300, 100 steps lost, down 1:23:20"
  assert told["bad checkpoints"] == "step 300 (checksum)"
  assert told["skipped updates"] == "1, not finite"
  assert told["mlm_loss"].split() == ["5.000", "nats", "6.000", "nats", "5.500", "nats", "at", "300"]
  assert told["nsp_accuracy"].split() == ["70.0%", "70.0%", "70.0%", "at", "100"]
  assert told["majority share"].startswith("52.0%")
  assert told["unigram entropy"].split("   ") == ["6.750 nats", "(eval/mlm_loss is 0.75 below)"]
  assert told["checkpoints"] == f"{run_folder / 'checkpoints'}  (steps 400)"
  assert "perplexity" not in told and "Hugging Face folder" not in told


def test_a_run_that_goes_on_without_its_corpus_is_told_as_far_as_known(run_folder):
  (run_folder.parent / "corpus" / "manifest.json").unlink()
  (run_folder / "events" / "attempt-0001.jsonl").unlink()
  told = facts(summary.run_summary(summary.read_run(run_folder)))
  assert told["steps"].startswith("400 of 400; last sign of life ") and told["attempts"] == "2"
  assert "unigram entropy" not in told and "tokens seen" not in told


def test_what_cannot_be_reported_is_refused_with_the_remedy(tmp_path):
  with pytest.raises(UserError, match="expected a run folder"):
    summary.read_run(tmp_path)
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty" / "config.json").write_text('{"log_every_steps": 50}')
  with pytest.raises(UserError, match="not logged a step yet; it does so every 50 steps"):
    summary.read_run(tmp_path / "empty")


def told_of(log, folder, **config):
  return facts(summary.run_summary(summary.read_run(log.write(folder, **config))))


def test_restarts_are_told_with_their_reasons(tmp_path):
  log = killed_between_saves()
  log(1, "save", 30, seconds=1.0)
  log(3, "saved", 30, seconds=2.5)
  log(0, "preempt", 30)
  log(20, "start")
  log(4, "fail", message="no space left on device\nsecond line")
  log(20, "start")
  told = told_of(log, tmp_path)
  assert told["attempts"] == "4"
  assert told["after attempt 0"] == "killed without a word at step 30, 10 steps lost, down 0:01:40"
  assert told["after attempt 1"] == "preempted at step 30, down 0:00:20"
  assert told["after attempt 2"] == "failed before its first step (no space left on device), down 0:00:20"
  assert told["saves"] == "2; training stood still for 1.50 s (median), 2.00 s at most; committed after 2.50 s"


def test_of_many_restarts_the_newest_are_shown(tmp_path):
  log = killed_between_saves()
  for _ in range(10):
    log(5, "start")
  text = summary.run_summary(summary.read_run(log.write(tmp_path)))
  assert text.count("  after attempt ") == summary.SHOWN_RESTARTS - 1
  assert "(the first 6 are on the page)" in text and "after attempt 10 " in text


def test_what_went_wrong_inside_an_attempt_is_told(tmp_path):
  log = Log()
  begun(log)
  log(1, "skip", 5, in_a_row=1)
  log(1, "train", 10, **{"hosts/slowest": 1.0, "hosts/slowest_seconds": 0.3, "hosts/median_seconds": 0.2})
  log(1, "slow_host", 10, process=1, host="node-7", seconds=0.3, median=0.2)
  log(1, "train", 20, **{"hosts/slowest": 0.0, "hosts/slowest_seconds": 0.2, "hosts/median_seconds": 0.2})
  log(1, "train", 30, **{"hosts/slowest": 1.0, "hosts/slowest_seconds": 0.5, "hosts/median_seconds": 0.2})
  log(1, "verify", 20, ok=False, reason="its saving was interrupted", removed=True)
  log(1, "verify", 10, ok=False, reason="checksum", set_aside="somewhere")
  log(1, "rollback", 8, from_step=30, position=64, to=240)
  log(1, "save_passed_over", 40, because="step 30 is still being written")
  told = told_of(log, tmp_path)
  assert told["rollbacks"] == "from step 30 to 8, past 176 rows"
  assert told["skipped updates"] == "1, not finite"
  assert told["bad checkpoints"] == "step 10 (checksum)" and told["saves cut off"] == "step 20"
  assert told["slowest host"] == "process 1 (node-7) in 2 of 3 windows, 2.00 x the median (median)"
  assert told["saves"] == "; 1 passed over, the one before was still being written"[2:]


def test_only_settings_that_differ_from_their_defaults_are_listed(tmp_path):
  text = summary.run_summary(
    summary.read_run(
      killed_between_saves().write(tmp_path, **{"optimizer.learning_rate": 0.25, "mesh.fsdp": 1, "old.key": "x y"})
    )
  )
  listed = text[text.index("changed settings") :].split("\n\n")[0]
  assert "optimizer.learning_rate=0.25" in listed and "old.key=x y" in listed and "mesh.fsdp" not in listed
  settings = summary.configuration(summary.read_run(tmp_path))
  assert [setting.changed for setting in settings] == sorted((setting.changed for setting in settings), reverse=True)
  assert {setting.key for setting in settings} == set(summary.read_run(tmp_path).config)


def test_mfu_is_told_where_it_is_known(tmp_path):
  log = Log()
  begun(log)
  log(1, "train", 10, tokens_per_second=1000.0, mfu=0.42)
  assert told_of(log, tmp_path)["speed"] == "1,000 tokens/s (median), MFU 42.0%"


def test_a_config_that_is_no_config_is_refused(tmp_path):
  for text in (
    "[1]",
    "{",
    '"x"',
    "[" * 100_000,
    '{"seed": 1, "seed": 2}',
    '{"seed": {"a": 1}}',
    '{"data.batch_size": []}',
  ):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="config.json"):
      summary.read_run(tmp_path)


def test_of_many_lines_it_is_said_that_neighbours_were_put_together(tmp_path, monkeypatch):
  monkeypatch.setattr(summary.history, "MOST_LINES", 10)
  log = Log()
  begun(log)
  for step in range(10, 1010, 10):
    log.window(1, step, step=1)
  told = told_of(log, tmp_path)
  assert told["logged lines"].startswith("100; curves and medians are of ") and "1,000 of 400" in told["steps"]


def test_names_of_hosts_cannot_move_the_cursor_of_a_terminal(tmp_path):
  log = Log()
  begun(log)
  log(1, "train", 10, **{"hosts/slowest": 1, "hosts/slowest_seconds": 2.0, "hosts/median_seconds": 1.0})
  log(1, "slow_host", 10, process=1, host="a\x1b[2Jb", seconds=2.0, median=1.0)
  text = summary.run_summary(summary.read_run(log.write(tmp_path)))
  assert "\x1b" not in text and r"process 1 (a\x1b[2Jb)" in text
