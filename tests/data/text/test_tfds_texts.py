"""Texts of TensorFlow Datasets, from a small data set that is built here: order, splits, features, and mistakes."""

import collections
import os
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import tensorflow_datasets as tfds

from bert_jax.data.text import tfds_texts
from bert_jax.data.text.sources import parse_source, read_documents, source_files, source_versions
from bert_jax.errors import UserError

_NUM_TRAIN = 1500


class TextsOfThisTest(tfds.core.GeneratorBasedBuilder):
  """Two configurations of a data set with several files, a second text and something that is no text."""

  VERSION = tfds.core.Version("1.2.3")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="small"), tfds.core.BuilderConfig(name="odd")]

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "text": tfds.features.Text(),
          "title": tfds.features.Text(),
          "number": np.int64,
          "words": tfds.features.Sequence(tfds.features.Text()),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(_NUM_TRAIN), "validation": self._generate_examples(30)}

  def _generate_examples(self, count):
    for number in range(count):
      text = f"Text {number}.\r\n\nMore 中文."
      if number == 5 and self.builder_config.name == "odd":
        text = b"half \xed\xa0\xbd"
      yield number, {"text": text, "title": f"Title {number}" if number % 2 else " ", "number": number, "words": ["x"]}


class NotPreparedInThisTest(tfds.core.GeneratorBasedBuilder):
  """Prepared by the test itself, or not at all."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    yield 0, {"text": "The only one."}


def prepare(folder, config, file_format=None):
  builder = TextsOfThisTest(data_dir=folder, config=config, file_format=file_format)
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = str(tmp_path_factory.mktemp("tfds"))
  prepare(path, "small")
  prepare(path, "odd")
  return path


@pytest.fixture(autouse=True)
def data_dir(folder, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", folder)


def read(spec, *, skip_bad=False, text_field="text"):
  counts = collections.Counter()
  documents = read_documents([parse_source(spec)], skip_bad=skip_bad, counts=counts, text_field=text_field)
  return list(documents), counts


def texts_by_tfds(folder, split, config="small"):
  """What TFDS itself reads, one file after the other."""
  config_of_reading = tfds.ReadConfig(interleave_cycle_length=1)
  examples = tfds.load(f"texts_of_this_test/{config}", split=split, data_dir=folder, read_config=config_of_reading)
  return [example["text"].decode().replace("\r\n\n", "\n") for example in tfds.as_numpy(examples)]


def test_the_examples_come_whole_and_in_the_order_in_which_they_are_stored(folder):
  documents, counts = read("tfds:texts_of_this_test/small")
  assert [d.text for d in documents] == texts_by_tfds(folder, "train")
  assert sorted(d.text for d in documents) == sorted(f"Text {number}.\nMore 中文." for number in range(_NUM_TRAIN))
  assert {d.file for d in documents} == {"tfds:texts_of_this_test/small/1.2.3:train"}
  assert [d.position for d in documents] == list(range(_NUM_TRAIN))
  assert documents[7].origin == "tfds:texts_of_this_test/small/1.2.3:train:7"
  assert counts["documents"] == _NUM_TRAIN and counts["files"] == 1
  assert read("tfds:texts_of_this_test/small") == (documents, counts)


@pytest.mark.parametrize(
  "split", ["validation", "train[:1%]", "train[33%:67%]", "train[-7:]", "train[70%:]+validation", "all"]
)
def test_splits_and_slices_are_those_of_tfds(folder, split):
  documents, _ = read(f"tfds:texts_of_this_test/small:{split}")
  assert [d.text for d in documents] == texts_by_tfds(folder, split)


@pytest.mark.parametrize(
  "argument",
  [
    "texts_of_this_test",
    "texts_of_this_test/small:1.2.3",
    "texts_of_this_test:1.2.3:train",
    "{folder}/texts_of_this_test/small/1.2.3",
  ],
)
def test_a_data_set_is_named_by_configuration_version_or_folder(folder, argument):
  documents, _ = read("tfds:" + argument.format(folder=folder))
  assert documents[0].file == "tfds:texts_of_this_test/small/1.2.3:train" and len(documents) == _NUM_TRAIN


def test_the_feature_is_named_by_text_field():
  documents, counts = read("tfds:texts_of_this_test/small:validation", text_field="title")
  assert all(d.text.startswith("Title ") for d in documents)
  assert len(documents) == counts["empty_documents"] == 15


def test_array_records_give_the_same_texts(tmp_path, monkeypatch, folder):
  prepare(str(tmp_path), "small", "array_record")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  for split in ("train", "train[10%:20%]+validation"):
    documents, _ = read(f"tfds:texts_of_this_test/small:{split}")
    assert [d.text for d in documents] == texts_by_tfds(folder, split)


def test_a_format_that_tfds_reads_wrong_is_refused(tmp_path, monkeypatch):
  prepare(str(tmp_path), "small", "parquet")
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  with pytest.raises(UserError, match="stored as parquet; .* read as tfrecord or array_record"):
    read("tfds:texts_of_this_test/small")


@pytest.mark.parametrize(
  "spec, text_field, message",
  [
    (
      "wikipedea",
      "text",
      "no data set 'wikipedea' in TensorFlow Datasets, and none prepared in .* did you mean wikipedia",
    ),
    ("texts_of_this_tets", "text", "did you mean texts_of_this_test"),
    ("texts_of_this_test/smal", "text", "texts_of_this_test has no configuration 'smal'; did you mean small"),
    ("texts_of_this_test/small:trian", "text", "no split 'trian'; did you mean 'train'. splits: train, validation"),
    ("texts_of_this_test/small:train[:x]", "text", "no split"),
    ("texts_of_this_test/small:train[:1", "text", "neither a version nor a split: 'train.:1'"),
    ("texts_of_this_test/small", "body", r"no feature 'body' \(features: .*words.*\); .*--text_field=t"),
    ("texts_of_this_test/small", "number", "feature 'number' is .*int64.*, not text"),
    ("texts_of_this_test/small", "words", "feature 'words' is .*, not text"),
    ("huggingface:c4/en", "text", "parquet:hf://datasets"),
    ("/nowhere/at/all", "text", "not the folder of a prepared data set"),
    ("wikipedia/20230601.enn", "text", "wikipedia has no configuration '20230601.enn'; did you mean .*20230601.en"),
    ("wikipedia/20230601.en", "text", "not prepared in .*Apache Beam .*TFDS_DATA_DIR=gs://tfds-data/datasets"),
    ("pg19", "text", "no feature 'text' .*--text_field=book_text"),
  ],
)
def test_mistakes_are_named_before_anything_is_downloaded(spec, text_field, message, monkeypatch):
  fail = lambda *args, **options: pytest.fail("downloads")
  monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
  with pytest.raises(UserError, match=message):
    read(f"tfds:{spec}", text_field=text_field)
  with pytest.raises(UserError, match=message):
    source_files([parse_source(f"tfds:{spec}")], text_field=text_field)


def test_without_a_network_the_message_comes_at_once(monkeypatch):
  def no_network(*args, **options):
    raise socket.gaierror(-2, "Name or service not known")

  monkeypatch.setattr(socket, "getaddrinfo", no_network)
  monkeypatch.setattr(urllib.request, "getproxies", dict)
  with pytest.raises(UserError, match=r"tfds:lm1b: not prepared in .*statmt.org.* cannot be reached .*TFDS_DATA_DIR"):
    read("tfds:lm1b")


def test_a_data_set_that_is_not_prepared_is_prepared_once_and_said_to_be(capfd):
  files = source_files([parse_source("tfds:not_prepared_in_this_test")])
  said = capfd.readouterr()
  assert (
    "tfds:not_prepared_in_this_test: not prepared in" in said.err and "downloading and preparing it now" in said.err
  )
  assert not said.out
  documents, _ = read("tfds:not_prepared_in_this_test")
  assert [d.text for d in documents] == ["The only one."]
  assert files == source_files([parse_source("tfds:not_prepared_in_this_test")])
  assert "preparing" not in capfd.readouterr().err


def test_a_preparation_that_fails_says_why(monkeypatch):
  monkeypatch.setattr(NotPreparedInThisTest, "_generate_examples", lambda self: iter([(0, {"wrong": "feature"})]))
  monkeypatch.setenv("TFDS_DATA_DIR", os.environ["TFDS_DATA_DIR"] + "/elsewhere")
  with pytest.raises(UserError, match="not prepared in .*/elsewhere/.*, and preparing it failed: .*; fix that, or"):
    read("tfds:not_prepared_in_this_test")


def test_an_example_that_is_not_utf8_is_named():
  with pytest.raises(UserError, match=r"tfds:texts_of_this_test/odd/1.2.3:train: example \d+: not UTF-8: .*--skip_bad"):
    read("tfds:texts_of_this_test/odd")
  documents, counts = read("tfds:texts_of_this_test/odd", skip_bad=True)
  assert len(documents) == _NUM_TRAIN - 1 and counts["bad_documents"] == 1


@pytest.mark.parametrize("damage", ["inside a record", "between records", "flipped"])
def test_damaged_files_are_named(tmp_path, monkeypatch, damage):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  prepare(str(tmp_path), "small")
  path = sorted(tmp_path.glob("**/*train.tfrecord*"))[1]
  data = path.read_bytes()
  first = int.from_bytes(data[:8], "little") + 16  # a record: 8 bytes of length, 4 of checksum, the data, 4 of checksum
  path.write_bytes(
    {
      "inside a record": data[:-5],
      "between records": data[:first],
      "flipped": data[:40] + bytes([data[40] ^ 1]) + data[41:],
    }[damage]
  )
  with pytest.raises(UserError, match=r"small/1.2.3:train: damaged or cut off after example \d+ .*--skip_bad"):
    read("tfds:texts_of_this_test/small")
  documents, counts = read("tfds:texts_of_this_test/small", skip_bad=True)
  assert 0 < len(documents) < _NUM_TRAIN and counts["bad_files"] == 1


def test_files_and_versions_tell_the_data_set_apart(folder):
  sources = [parse_source(f"tfds:texts_of_this_test/small:{split}") for split in ("train", "validation")]
  (train, num_bytes, count), (validation, _, fewer) = source_files(sources)
  assert train == "tfds:texts_of_this_test/small/1.2.3:train" and validation.endswith(":validation")
  assert (type(num_bytes), count, fewer) == (int, _NUM_TRAIN, 30)
  assert source_versions(sources) == {"tfds:texts_of_this_test/small": "1.2.3"}


def test_tensorflow_is_imported_to_read_and_sees_no_gpu(folder):
  code = """if True:
    import collections, sys
    from bert_jax.data.text.sources import parse_source, read_documents, source_files
    sources = [parse_source("tfds:texts_of_this_test/small:validation")]
    source_files(sources)
    documents = read_documents(sources, skip_bad=False, counts=collections.Counter())
    assert "tensorflow" not in sys.modules
    assert len(list(documents)) == 30
    import tensorflow as tf
    assert tf.config.get_visible_devices("GPU") == []
  """
  environment = {**os.environ, "TFDS_DATA_DIR": folder}
  done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert not done.stdout and not done.stderr, "TensorFlow is not quiet"


def test_arguments_are_taken_apart_at_the_right_colon():
  for argument, name, split in (
    ("lm1b", "lm1b", None),
    ("lm1b:test", "lm1b", "test"),
    ("lm1b:1.1.0", "lm1b:1.1.0", None),
    ("lm1b:1.1.0:train[:1%]+test[2:3]", "lm1b:1.1.0", "train[:1%]+test[2:3]"),
    ("gs://bucket/lm1b/1.1.0:test", "gs://bucket/lm1b/1.1.0", "test"),
    ("gs://bucket/lm1b/1.1.0", "gs://bucket/lm1b/1.1.0", None),
  ):
    found = tfds_texts._ARGUMENT.fullmatch(argument)
    assert (found["name"], found["split"]) == (name, split)
