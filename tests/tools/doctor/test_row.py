"""Rows: how failures become rows, how the rows of many processes become one table, and how it looks."""

import json

import pytest

from bert_jax.errors import UserError
from bert_jax.tools.doctor import row


def failing(error):
  def check():
    raise error

  return check


def test_a_check_that_crashes_is_a_failure_with_its_exception_on_one_line():
  (found,) = row.run_check("memory", failing(ZeroDivisionError("one\n  two")))["memory"]
  assert found.status == row.FAIL and found.found == "ZeroDivisionError: one two" and found.remedy


def test_a_check_may_find_several_things():
  assert row.run_check("x", lambda: [row.ok("a"), row.ok("b")]) == {"x": [row.ok("a"), row.ok("b")]}


@pytest.mark.parametrize(
  "message, found, remedy",
  [
    ("a does not fit b; set a to b", "a does not fit b", "set a to b"),
    ("waited 5 s for process 1; 0 came. Look at its log", "waited 5 s for process 1; 0 came", "look at its log"),
    ("not alike:\n  a has 1\n  b has 2\nGive both the same", "not alike: a has 1; b has 2", "give both the same"),
    ("broken", "broken", "fix that, then run doctor again"),
    (f"expected {'ab' * 32}, found 1; copy it again", "expected abababababab…, found 1", "copy it again"),
    ("x. SLURM_NTASKS it is", "x", "SLURM_NTASKS it is"),
  ],
)
def test_the_message_of_a_user_error_is_cut_into_what_was_found_and_the_remedy(message, found, remedy):
  assert row.refused(UserError(message)) == row.fail(found, remedy)


def test_where_all_is_well_one_process_speaks_for_all():
  rows = [{"memory": [row.ok(f"{free} GB free")]} for free in (20, 19, 21)]
  assert row.merged(rows, "abc") == {"memory": [row.ok("20 GB free")]}


def test_what_is_wrong_on_some_processes_names_them_and_what_is_wrong_on_all_does_not():
  low = row.warn("1 GB free", "more memory")
  fine = row.ok("20 GB free")
  full = row.fail("disk full", "free some space")
  rows = [{"memory": [own], "disk": [full]} for own in (fine, low, fine, low)]
  merged = row.merged(rows, ["a", "b", "b", "c"])
  assert merged["memory"] == [row.warn("processes 1, 3 (b, c): 1 GB free", "more memory")]
  assert merged["disk"] == [full]


def test_many_processes_are_not_all_listed():
  hosts = [f"node-{number // 2}" for number in range(16)]
  assert row.name_processes(range(16), hosts) == "processes 0, 1, 2, 3 and 12 more (node-0, node-1, node-2, …)"
  assert row.name_processes([3], hosts) == "process 3 (node-1)"


def test_findings_about_one_thing_are_combined():
  assert row.combined(row.ok("a"), [], [row.ok("b")]) == [row.ok("a; b")]
  assert row.combined([row.warn("w", "r")], row.ok("b")) == [row.warn("w", "r")]
  assert row.combined([], []) == []


def test_the_table_is_aligned_wraps_at_words_and_ends_with_a_verdict():
  long = "one two three four five six seven eight nine ten eleven twelve thirteen"
  command = "python -m bert_jax prepare --source=… --out=/a/very/long/name/that/may/not/be/broken/anywhere/at/all"
  lines = row.findings_table(
    {"disk space": [row.fail(long, command)], "memory": [row.ok("fine"), row.warn("low", "more")]}, 50
  ).splitlines()
  assert lines[0] == "FAIL  disk space  one two three four five six"
  assert lines[1] == " " * 18 + "seven eight nine ten eleven"
  assert any(line.startswith(" " * 18 + "→ python -m") for line in lines)
  assert "                    --out=/a/very/long/name/that/may/not/be/broken/anywhere/at/all" in lines
  assert lines[-5:] == [
    "ok    memory      fine",
    "warn              low",
    "                  → more",
    "",
    "not ready: 1 failure and 1 warning",
  ]


def test_the_verdict_counts():
  assert row.findings_table({"a": [row.ok("x")]}, 80).endswith("\n\nready")
  assert row.findings_table({"a": [row.warn("x", "y"), row.warn("x", "y")]}, 80).endswith("\n\nready, with 2 warnings")


def test_json_has_the_worst_status_and_every_row():
  loaded = json.loads(row.findings_json({"a": [row.ok("x")], "b": [row.warn("y", "z")]}))
  assert loaded == {
    "status": "warn",
    "rows": [
      {"check": "a", "status": "ok", "found": "x", "remedy": ""},
      {"check": "b", "status": "warn", "found": "y", "remedy": "z"},
    ],
  }


def test_sizes_have_units():
  assert [row.size(number) for number in (17, 4_200_000, 1.3e12)] == ["17 B", "4.2 MB", "1.3 TB"]
