"""suite.py: tasks found, jobs run once, means with their errors, a table and a picture."""

import json
import math
import pathlib
import shutil
import xml.etree.ElementTree

import jax
import pytest
import safetensors.numpy

from bert_jax.__main__ import main
from bert_jax.errors import UserError
from bert_jax.export import export as exporting
from bert_jax.inference import model as inference
from bert_jax.io import locks
from bert_jax.runs import finetuning, suite
from bert_jax.tools.report.suite import plot

FEW = ("tuning.epochs=1", "tuning.max_length=32", "data.batch_size=8", "tuning.pooling=mean")


@pytest.fixture(scope="module")
def model(finished):
  return str(finished[1])


@pytest.fixture(autouse=True)
def programs_are_kept_between_jobs(monkeypatch):
  """A suite gives their memory back; these are small, and every job has the same."""
  monkeypatch.setattr(jax, "clear_caches", lambda: None)


@pytest.fixture
def data(tmp_path):
  """SST-2 and RTE in their native formats, a few lines each."""
  root = tmp_path / "glue"
  for name, header, line in (
    ("SST-2", "sentence\tlabel", "the array {n} is small\t{y}"),
    ("RTE", "index\tsentence1\tsentence2\tlabel", "{n}\tthe list\tthe file {n}\t{name}"),
  ):
    (root / name).mkdir(parents=True)
    for split, count in (("train", 24), ("dev", 8)):
      lines = [line.format(n=n, y=n % 2, name=("entailment", "not_entailment")[n % 2]) for n in range(count)]
      (root / name / f"{split}.tsv").write_text("\n".join([header, *lines]) + "\n")
  return str(root)


def test_a_suite_is_a_name_or_tasks_or_several():
  assert "sst2" in suite.tasks_of("glue") and "sst2" not in suite.tasks_of("clue")
  assert suite.tasks_of("rte,sst2") == ["rte", "sst2"] and suite.tasks_of("sts,stsb") == ["stsb", "stsb-zh"]
  assert set(suite.tasks_of("glue")) == {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "snli", "agnews"}
  assert set(suite.tasks_of("all")) == set(suite.TASKS)
  with pytest.raises(UserError, match="expected all, glue, clue, qa, ner, sts, or tasks: cola"):
    suite.tasks_of("superglue")


def test_a_task_is_found_by_its_folder_by_a_file_of_its_own_or_where_one_says(data, tmp_path):
  assert suite.find_data("sst2", [data]).data.endswith("SST-2") and suite.find_data("rte", [data]).data.endswith("RTE")
  assert suite.find_data("cola", [data]).data == "", "train.tsv may be anybody's"
  (tmp_path / "glue" / "mixed").mkdir()
  (tmp_path / "glue" / "mixed" / "QNLI-train.json").write_text("{}")
  assert suite.find_data("qnli", [data]).data.endswith("mixed")
  assert suite.find_data("sst2", ["sst2=a.tsv,b.tsv", data]) == ("a.tsv", "b.tsv")
  with pytest.raises(UserError, match="there is no such folder"):
    suite.find_data("sst2", [str(tmp_path / "nowhere")])
  with pytest.raises(UserError, match="'sst-2' is no task; it is one of cola, sst2"):
    suite.find_data("sst2", [f"sst-2={data}"])


def test_every_task_runs_under_every_seed_once(model, data, tmp_path, monkeypatch):
  told, ran, plain = [], [], finetuning.finetune_run
  monkeypatch.setattr(
    finetuning, "finetune_run", lambda config, workdir, **more: ran.append(workdir) or plain(config, workdir, **more)
  )
  results = suite.run_suite(
    model, ["sst2", "rte", "cola"], [data], str(tmp_path / "jobs"), seeds=2, overrides=FEW, log=told.append
  )
  assert len(ran) == 4 and any("no data for cola" in line for line in told)
  assert [(one.task, one.metric, len(one.values)) for one in results] == [
    ("sst2", "accuracy", 2),
    ("rte", "accuracy", 2),
  ]
  assert all(0 <= value <= 1 for one in results for value in one.values)
  assert not list((tmp_path / "jobs").glob("*/*/checkpoints")), "results are kept, states are not"

  again = suite.run_suite(
    model, ["sst2", "rte"], [data], str(tmp_path / "jobs"), seeds=2, overrides=FEW, log=told.append
  )
  assert len(ran) == 4 and again == results
  suite.run_suite(model, ["sst2"], [data], str(tmp_path / "jobs"), seeds=3, overrides=FEW, log=told.append)
  assert len(ran) == 5 and ran[-1].endswith("sst2/seed-2")
  with pytest.raises(UserError, match="result of other settings: tuning.epochs: 1.0 there, 2.0 now"):
    suite.run_suite(
      model, ["sst2"], [data], str(tmp_path / "jobs"), seeds=1, overrides=(*FEW, "tuning.epochs=2"), log=told.append
    )

  for key, said in (
    ("tuning.max_length=16", "tuning.max_length: 32 there, 16 now"),
    ("model.hidden_dropout_prob=0.0", "hidden_dropout_prob: 0.1 there, 0.0 now"),
  ):
    with pytest.raises(UserError, match=said):
      suite.run_suite(model, ["sst2"], [data], str(tmp_path / "jobs"), seeds=1, overrides=(*FEW, key), log=told.append)
  # Rows of 512 are what a model of 32 positions had at 32.
  suite.run_suite(
    model, ["sst2"], [data], str(tmp_path / "jobs"), seeds=3, overrides=(*FEW, "tuning.max_length=512"), log=told.append
  )

  (fewer,) = suite.run_suite(model, ["sst2"], [data], str(tmp_path / "jobs"), seeds=1, overrides=FEW, log=told.append)
  assert len(ran) == 5 and len(fewer.values) == 3, "seeds that have finished stay in the figures"
  content = json.loads((tmp_path / "jobs" / "results.json").read_text())
  assert content["tasks"]["rte"]["values"] == results[1].values, "of an earlier call, and kept"
  assert content["tasks"]["sst2"]["values"] == results[0].values + content["tasks"]["sst2"]["values"][2:]
  assert "| sst2 | accuracy |" in (tmp_path / "jobs" / "results.md").read_text()
  picture = xml.etree.ElementTree.fromstring(plot(results, model))
  assert len(picture.findall(".//{http://www.w3.org/2000/svg}rect")) >= len(results)


def test_a_job_is_not_taken_for_one_of_a_model_that_has_trained_on_since(model, data, tmp_path):
  jobs, same = str(tmp_path / "jobs"), {"seeds": 1, "overrides": FEW, "log": lambda text: None}
  shutil.copytree(model, tmp_path / "model")
  suite.run_suite(str(tmp_path / "model"), ["rte"], [data], jobs, **same)
  suite.run_suite(
    str(tmp_path / "model"), ["rte"], [f"rte={data}/../glue/RTE"], jobs, **same
  )  # where its data lie may be said otherwise
  (tmp_path / "model" / "checkpoints" / "24").rename(tmp_path / "model" / "checkpoints" / "25")
  with pytest.raises(
    UserError,
    match="holds results of the model .*model at step 24, and now .*model at step 25 is given: give another --jobs",
  ):
    suite.run_suite(str(tmp_path / "model"), ["rte"], [data], jobs, **same)
  with pytest.raises(UserError, match="holds results of the model .*, and now .* is given: give another --jobs"):
    suite.run_suite(model, ["rte"], [data], jobs, **same)
  (tmp_path / "jobs" / "results.json").unlink()
  with pytest.raises(UserError, match=r"init_from: '.*model at step 24' there, '.*model at step 25' now"):
    suite.run_suite(str(tmp_path / "model"), ["rte"], [data], jobs, **same)


def test_a_job_that_is_stopped_while_its_checkpoints_are_removed_keeps_its_result(model, data, tmp_path, monkeypatch):
  jobs, same = str(tmp_path / "jobs"), {"seeds": 1, "overrides": FEW, "log": lambda text: None}
  monkeypatch.setattr(suite.shutil, "rmtree", lambda path, **more: 1 / 0 if pathlib.Path(path).exists() else None)
  with pytest.raises(ZeroDivisionError):
    suite.run_suite(model, ["rte"], [data], jobs, **same)
  monkeypatch.undo()
  monkeypatch.setattr(finetuning, "finetune_run", lambda *arguments, **more: pytest.fail("it had finished"))
  suite.run_suite(model, ["rte"], [data], jobs, **same)
  assert sorted(path.name for path in (tmp_path / "jobs" / "rte" / "seed-0").glob("*checkpoints*")) == []


def test_seeds_of_different_examples_have_no_mean(model, data, tmp_path):
  jobs, same, folder = str(tmp_path / "jobs"), {"overrides": FEW, "log": lambda text: None}, tmp_path / "glue" / "SST-2"
  (folder / "train.tsv").write_text(
    "\n".join(["sentence\tlabel", *(f"the array {n}\t{n % 2}" for n in range(80))]) + "\n"
  )
  suite.run_suite(model, ["sst2"], [data], jobs, seeds=1, **same)
  whole = (folder / "dev.tsv").read_text()
  (folder / "dev.tsv").write_text(whole + "one more\t1\n")
  with pytest.raises(UserError, match=r"result of other settings: .*dev.tsv: '[0-9a-f]{16}' there, '[0-9a-f]{16}' now"):
    suite.run_suite(model, ["sst2"], [data], jobs, seeds=2, **same)
  (folder / "dev.tsv").unlink()
  with pytest.raises(
    UserError, match="sst2: its seeds in .* were trained or judged on different examples, so their mean says nothing"
  ):
    suite.run_suite(model, ["sst2"], [data], jobs, seeds=2, **same)


def test_what_a_figure_was_measured_by_and_on_decides_what_stands_beside_it(model, data, tmp_path):
  jobs, same = str(tmp_path / "jobs"), {"seeds": 1, "log": lambda text: None}
  (one,) = suite.run_suite(model, ["rte"], [data], jobs, overrides=(*FEW, "tuning.metric=mcc"), **same)
  assert one.metric == "mcc" and one.published is None and "66.4" not in suite.table([one])
  assert (
    suite.TASKS["rte"].published is None or one._replace(metric="accuracy").published == suite.TASKS["rte"].published
  )
  (tmp_path / "glue" / "RTE" / "dev.tsv").unlink()
  table = (tmp_path / "glue" / "RTE" / "train.tsv").read_text().splitlines()
  (tmp_path / "glue" / "RTE" / "train.tsv").write_text(
    "\n".join(table + [f"{n}\tthe array {n}\tthe file\tentailment" for n in range(40)]) + "\n"
  )
  (held,) = suite.run_suite(model, ["rte"], [data], str(tmp_path / "held"), overrides=FEW, **same)
  assert held.held_out and not one.held_out
  shown = (tmp_path / "held" / "results.md").read_text()
  assert "| rte | accuracy* |" in shown and "on a tenth of the training file" in shown
  with pytest.raises(UserError, match="seed: a suite trains under the seeds 0, 1"):
    suite.run_suite(model, ["rte"], [data], jobs, overrides=(*FEW, "seed=3"), **same)


def test_a_job_is_not_taken_for_one_of_an_export_whose_weights_were_replaced(model, data, tmp_path):
  jobs, same, export = (
    str(tmp_path / "jobs"),
    {"seeds": 1, "overrides": FEW, "log": lambda text: None},
    tmp_path / "export",
  )
  exporting.export_model(inference.load_model(model), export)
  suite.run_suite(str(export), ["rte"], [data], jobs, **same)
  suite.run_suite(str(export), ["rte"], [data], jobs, **same)
  weights = safetensors.numpy.load_file(export / "model.safetensors")
  first = min(weights)
  safetensors.numpy.save_file(
    weights | {first: weights[first] + 1}, export / "model.safetensors", metadata={"format": "pt"}
  )
  with pytest.raises(
    UserError,
    match="holds results of the model .*export at weights [0-9a-f]{16}, and now .*export at weights [0-9a-f]{16} is "
    "given",
  ):
    suite.run_suite(str(export), ["rte"], [data], jobs, **same)
  (tmp_path / "jobs" / "results.json").unlink()
  with pytest.raises(UserError, match="init_from: '.*export at weights"):
    suite.run_suite(str(export), ["rte"], [data], jobs, **same)


def test_a_task_that_cannot_be_run_keeps_none_of_the_others_from_running(model, data, tmp_path):
  dev = tmp_path / "glue" / "SST-2" / "dev.tsv"
  dev.write_text(dev.read_text() + "strange\t7\n")
  said = []
  with pytest.raises(
    UserError, match=r"sst2: .*dev.tsv has labels that do not occur in .*: 7.*; the others are in .*results.md"
  ):
    suite.run_suite(model, ["sst2", "rte"], [data], str(tmp_path / "jobs"), seeds=1, overrides=FEW, log=said.append)
  assert list(json.loads((tmp_path / "jobs" / "results.json").read_text())["tasks"]) == ["rte"]
  assert any(line.startswith("sst2 is left out: ") for line in said)


def test_the_time_of_a_job_is_that_of_all_its_attempts(tmp_path):
  for attempt, times in enumerate(((10.0, 12.5), (100.0, 101.0, 104.0))):
    path = tmp_path / "events" / f"attempt-{attempt:04d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"event": "save", "step": 1, "time": time}) + "\n" for time in times))
  assert suite._seconds(tmp_path) == pytest.approx(6.5)


def test_with_json_everything_else_goes_to_the_other_stream(model, data, tmp_path, capsys):
  flags = [f"--config.{key}" for key in FEW]
  assert (
    main(
      [
        "evaluate",
        f"--model={model}",
        "--suite=rte",
        f"--data={data}",
        "--seeds=1",
        f"--jobs={tmp_path / 'jobs'}",
        "--json",
        *flags,
      ]
    )
    == 0
  )
  shown = capsys.readouterr()
  assert list(json.loads(shown.out)["tasks"]) == ["rte"] and "eval at" in shown.err


def test_no_data_at_all_is_an_error(model, data, tmp_path):
  with pytest.raises(UserError, match="no data for any of cola"):
    suite.run_suite(model, ["cola"], [data], str(tmp_path / "jobs"), seeds=1, log=lambda text: None)


def test_mean_and_standard_error():
  result = suite.TaskResult("sst2", "accuracy", [0.8, 0.9, 0.7, 0.8], [{}] * 4, 1.0, held_out=False)
  assert result.mean == pytest.approx(0.8) and result.error == pytest.approx(math.sqrt((0.01 + 0.01) / 3) / 2)
  assert "80.0 ± 4.1" in suite.table([result])
  assert "93.5 (test; Devlin" in suite.table([result])
  alone = suite.TaskResult("sst2", "accuracy", [0.8], [{}], 1.0, held_out=False)
  assert math.isnan(alone.error) and "±" not in suite.table([alone])


def test_two_suites_in_one_folder_of_jobs_do_not_mix(tmp_path):
  (tmp_path / "sst2").mkdir()
  (tmp_path / "sst2" / "train.tsv").write_text("sentence\tlabel\na\t0\n")
  (tmp_path / "jobs").mkdir()
  with locks.FolderLock(tmp_path / "jobs") as lock:
    assert lock.take(alone=True)
    with pytest.raises(UserError, match="another process is evaluating a suite in .*jobs; let it end, or give another"):
      suite.run_suite("model", ["sst2"], [str(tmp_path)], str(tmp_path / "jobs"), seeds=1)
