"""One table of exit codes: every script, manifest and page says the same of what is started again."""

import re

import pytest
import yaml

from bert_jax import errors
from tests.launch.programs import LAUNCH, ROOT
from tests.launch.test_supervise import AGAIN, FINAL

PAGES = ("README.md", "README.zh-CN.md", "docs/run.md")


def read(path):
  return (ROOT / path).read_text(encoding="utf-8")


def numbers(text):
  return {int(number) for number in re.findall(r"\d+", text)}


def test_every_code_that_the_program_has_is_in_one_of_the_two_lists():
  codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
  assert codes <= set(FINAL) ^ set(AGAIN) and not set(FINAL) & set(AGAIN)


@pytest.mark.parametrize("script", ["supervise.sh", "slurm.sbatch", "tpu-vm.sh"])
def test_the_scripts_end_for_the_codes_that_are_final(script):
  (final,) = re.findall(r"^ +((?:\d+ \| )+\d+)\)", read(LAUNCH / script), re.M)
  assert numbers(final) | {0} == set(FINAL)


@pytest.mark.parametrize("name", ["gke-gpu.yaml", "gke-tpu.yaml"])
def test_the_jobsets_end_for_the_codes_that_are_final(name):
  job = yaml.safe_load(read(LAUNCH / name))["spec"]["replicatedJobs"][0]["template"]["spec"]
  assert {0, *job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]} == set(FINAL)


@pytest.mark.parametrize("name", ["skypilot-gpu.yaml", "skypilot-tpu.yaml"])
def test_skypilot_starts_all_others_again(name):
  recovery = yaml.safe_load(read(LAUNCH / name))["resources"]["job_recovery"]
  assert recovery["recover_on_exit_codes"] == sorted(AGAIN)


@pytest.mark.parametrize("page", PAGES[:2])
def test_the_loops_of_the_pages_end_for_the_codes_that_are_final(page):
  loops = re.findall(r"^ +case \$\? in ([\d|]+)\) break;; \*\) sleep", read(page), re.M)
  assert loops and all(numbers(final) == set(FINAL) for final in loops)


@pytest.mark.parametrize("page", ["launch/README.md", "launch/README.zh-CN.md"])
def test_the_tables_of_the_launchers_have_every_code_where_it_belongs(page):
  rows = re.findall(r"^\| ([\d、, ]+)[^|]*\| [^|]+ \| (–|final|again|不再启动|重新启动) \|$", read(page), re.M)
  final = set().union(*(numbers(codes) for codes, then in rows if then in ("–", "final", "不再启动")))
  again = set().union(*(numbers(codes) for codes, then in rows if then in ("again", "重新启动")))
  assert final == set(FINAL) and again <= set(AGAIN)
  assert {code for code in AGAIN if code < 128} | {134, 137, 139, 143} <= again


@pytest.mark.parametrize("page", PAGES)
def test_what_can_go_wrong_is_listed_with_every_code_of_the_program(page):
  listed = set().union(*map(numbers, re.findall(r"^\| .* \| ([^|]*) \|$", read(page), re.M)))
  assert {value for name, value in vars(errors).items() if name.startswith("EXIT_")} | {1, 130} <= listed
  final = re.findall(
    r"(?:^Final are |^)(0[,、] ?1[,、] ?2[^.:。：]+?)(?:are final|不再启动|: a second)", read(page), re.M
  )
  assert final and all(numbers(codes) == set(FINAL) for codes in final)
