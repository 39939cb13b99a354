"""What a check says: a row, the rows of several processes as one, and the table of all of them."""

import json
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bert_jax.errors import UserError

OK, WARN, FAIL = STATUSES = ("ok", "warn", "fail")
_LABELS = {OK: "ok", WARN: "warn", FAIL: "FAIL"}
_LONGEST = 300  # characters of an exception that a row shows


class Row(NamedTuple):
  """One finding.

  Attributes:
    status: one of STATUSES.
    found: what was found, for people.
    remedy: what to do about it; empty where all is well.
  """

  status: str
  found: str
  remedy: str = ""


Findings = dict[str, list[Row]]  # name of the check -> its findings, at least one


def ok(found: str) -> Row:
  """All is well."""
  return Row(OK, found)


def warn(found: str, remedy: str) -> Row:
  """Training works, and something about it is not as it should be."""
  return Row(WARN, found, remedy)


def fail(found: str, remedy: str) -> Row:
  """Training will stop, or give nothing that can be used."""
  return Row(FAIL, found, remedy)


def refused(error: UserError) -> Row:
  """The failure that a run itself would report. Its message ends with the remedy: a line, a sentence, or what follows
  a semicolon.
  """
  text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", str(error))  # hashes as people compare them
  if "\n" in text:
    found, _, remedy = text.rpartition("\n")
    found = "; ".join(map(str.strip, found.splitlines())).replace(":;", ":")
  elif ". " in text:
    found, _, remedy = text.rpartition(". ")
  else:
    found, _, remedy = text.partition("; ")
  if remedy[1:2].islower():  # "Give …" as the end of a sentence; but not a name in capitals
    remedy = remedy[0].lower() + remedy[1:]
  return fail(found, remedy or "fix that, then run doctor again")


def run_check(name: str, check: Callable[..., Row | list[Row]], *arguments) -> Findings:
  """{name: findings} of a check; one that raises has failed, and its exception is the finding."""
  try:
    found = check(*arguments)
  except UserError as error:
    found = refused(error)
  except Exception as error:  # whatever is wrong with one thing, the others are looked at
    text = " ".join(str(error).split())[:_LONGEST]
    found = fail(
      f"{type(error).__name__}: {text}" if text else type(error).__name__,
      "this check failed to run; fix what the message names, then run doctor again",
    )
  return {name: [found] if isinstance(found, Row) else found}


def merged(processes: Sequence[Findings], hosts: Sequence[str]) -> Findings:
  """The rows of all processes as those of one table.

  Where all is well everywhere, the first process speaks for all. Where it is not, what is
  wrong is reported once, with the processes that found it, unless all did.

  Args:
    processes: what each process found, by its index; all looked at the same things.
    hosts: the host name of each.
  """
  table: Findings = {}
  for name in dict.fromkeys(name for rows in processes for name in rows):
    finders: dict[Row, list[int]] = {}
    for index, rows in enumerate(processes):
      for row in rows.get(name, []):
        finders.setdefault(row, []).append(index)
    wrong = {row: found_by for row, found_by in finders.items() if row.status != OK}
    if not wrong:
      table[name] = next(rows[name] for rows in processes if name in rows)
      continue
    everywhere = lambda found_by: len(found_by) == len(processes)
    table[name] = [
      row if everywhere(found_by) else row._replace(found=f"{name_processes(found_by, hosts)}: {row.found}")
      for row, found_by in wrong.items()
    ]
  return table


def combined(*findings: Row | list[Row]) -> list[Row]:
  """Several findings of one check: those that are not ok, or what all say in one row where all are."""
  listed = [one for found in findings for one in ([found] if isinstance(found, Row) else found)]
  return [one for one in listed if one.status != OK] or ([ok("; ".join(one.found for one in listed))] if listed else [])


def name_processes(indices: Sequence[int], hosts: Sequence[str]) -> str:
  """process 3 (node-2); processes 1, 2 and 6 more (node-1, node-2, …)."""
  shown = ", ".join(map(str, indices[:4])) + (f" and {len(indices) - 4} more" if len(indices) > 4 else "")
  places = list(dict.fromkeys(hosts[index] for index in indices))
  return f"process{'es' * (len(indices) > 1)} {shown} ({', '.join(places[:3])}{', …' * (len(places) > 3)})"


def worst(rows: Findings) -> str:
  """The worst status of all."""
  return max((row.status for found in rows.values() for row in found), key=STATUSES.index, default=OK)


def findings_table(rows: Findings, width: int) -> str:
  """The findings as aligned lines, and a verdict.

      ok    devices      1 x cpu; mesh data=1, fsdp=1, tensor=1
      FAIL  disk space   needs 12.1 GB, 3.0 GB are free
                         → free some space

  Args:
    rows: of all checks.
    width: characters of a line; words longer than that stay whole.
  """
  margin = 6 + max(map(len, rows)) + 2
  wrap = lambda text, first, rest: textwrap.wrap(
    text,
    max(width, margin + 24),
    initial_indent=first,
    subsequent_indent=rest,
    break_long_words=False,
    break_on_hyphens=False,
  )
  lines = []
  for name, found in rows.items():
    for number, row in enumerate(found):
      head = f"{_LABELS[row.status]:<6}{'' if number else name:<{margin - 6}}"
      lines += wrap(row.found, head, " " * margin)
      if row.remedy:
        lines += wrap(row.remedy, f"{'':{margin}}→ ", " " * (margin + 2))
  counts = {status: sum(row.status == status for found in rows.values() for row in found) for status in STATUSES}
  told = [
    f"{counts[status]} {word}{'s' * (counts[status] > 1)}"
    for status, word in ((FAIL, "failure"), (WARN, "warning"))
    if counts[status]
  ]
  verdict = {OK: "ready", WARN: "ready, with", FAIL: "not ready:"}[worst(rows)]
  return "\n".join([*lines, "", " ".join([verdict, " and ".join(told)]).strip()])


def findings_json(rows: Findings) -> str:
  """{"status": the worst, "rows": [{"check", "status", "found", "remedy"}]}, as text."""
  listed = [{"check": name, **row._asdict()} for name, found in rows.items() for row in found]
  return json.dumps({"status": worst(rows), "rows": listed}, indent=1, ensure_ascii=False)


def size(number: float) -> str:
  """17 B, 4.2 MB, 1.3 TB."""
  for unit, power in (("TB", 4), ("GB", 3), ("MB", 2), ("kB", 1)):
    if number >= 1000**power:
      return f"{number / 1000**power:.1f} {unit}"
  return f"{number:.0f} B"
