"""predict, and export of fine-tuned models, as a user calls them."""

import json

import pytest


def test_classes_with_their_probabilities(call, exported_labels):
  model = exported_labels("classification")
  code, shown, _ = call("predict", f"--model={model}", "the cat", "a mat")
  assert code == 0 and len(shown.splitlines()) == 2 and shown.splitlines()[0].endswith("the cat")
  code, shown, _ = call("predict", f"--model={model}", "--json", "the cat")
  found = json.loads(shown)
  assert found["text"] == "the cat" and sum(label["value"] for label in found["found"]) == pytest.approx(1)


def test_texts_of_a_file_and_pairs(call, exported_labels, tmp_path):
  (tmp_path / "texts.txt").write_text("the cat\na mat\n")
  code, shown, _ = call(
    "predict",
    f"--model={exported_labels('regression')}",
    f"--input={tmp_path / 'texts.txt'}",
    "--text_pair=a",
    "--text_pair=b",
  )
  assert code == 0 and [line.split()[0] for line in shown.splitlines()] == ["score", "score"]


def test_a_column_of_a_table_is_read_and_every_line_keeps_its_number(call, exported_labels, tmp_path):
  table, model = tmp_path / "test.csv", f"--model={exported_labels('classification')}"
  table.write_text('id,review,other\n1,"the cat\nsat",on\n2,a mat,"the, cat"\n')
  code, shown, err = call("predict", model, f"--input={table}", "--text=review", "--text_pair=other", "--json")
  rows = [json.loads(line) for line in shown.splitlines()]
  assert code == 0 and [(row["line"], row["text"]) for row in rows] == [(2, "the cat\nsat"), (4, "a mat")] and not err
  direct = call("predict", model, "the cat\nsat", "a mat", "--text_pair=on", "--text_pair=the, cat", "--json")[1]
  assert [row["found"] for row in rows] == [json.loads(line)["found"] for line in direct.splitlines()]
  assert "every line of" in call("predict", model, f"--input={table}", "--json")[2]


def test_questions_of_a_file_need_no_answers(call, exported_labels, tmp_path):
  asked = [{"id": "one", "question": "where"}, {"id": "two", "question": "who", "answers": [], "is_impossible": True}]
  (tmp_path / "test.json").write_text(
    json.dumps({"data": [{"paragraphs": [{"context": "the cat sat on a mat", "qas": asked}]}]})
  )
  code, shown, _ = call(
    "predict", f"--model={exported_labels('question-answering')}", f"--input={tmp_path / 'test.json'}", "--json"
  )
  rows = [json.loads(line) for line in shown.splitlines()]
  assert code == 0 and [(row["id"], row["question"]) for row in rows] == [("one", "where"), ("two", "who")]
  assert all(row["found"]["text"] in "the cat sat on a mat" for row in rows)
  code, shown, _ = call(
    "predict", f"--model={exported_labels('question-answering')}", "the cat sat on a mat", "--question=who", "--json"
  )
  found = json.loads(shown)["found"]
  assert found["text"] == rows[1]["found"]["text"] and found["score"] == pytest.approx(
    rows[1]["found"]["score"], abs=1e-4
  )


def test_entities_and_answers(call, exported_labels):
  code, shown, _ = call(
    "predict", f"--model={exported_labels('token-classification')}", "--json", "the cat sat on a mat"
  )
  assert code == 0 and all(one["text"] in "the cat sat on a mat" for one in json.loads(shown)["found"])
  code, shown, _ = call(
    "predict", f"--model={exported_labels('question-answering')}", "the cat sat on a mat", "--question=where", "--json"
  )
  assert code == 0 and json.loads(shown)["found"]["text"] in "the cat sat on a mat"


def test_of_a_text_without_anything_in_it_there_is_no_answer_and_json_stays_json(call, exported_labels):
  model = f"--model={exported_labels('question-answering')}"
  code, shown, _ = call("predict", model, "", "--question=where", "--json")
  assert code == 0 and json.loads(shown)["found"] == {"text": "", "begin": 0, "score": None, "null_score": None}
  assert "no answer: the text is empty" in call("predict", model, "", "--question=where")[1]


@pytest.mark.parametrize("kind", ["classification", "token-classification"])
def test_texts_that_are_cut_are_counted(call, exported_labels, kind):
  code, _, err = call("predict", f"--model={exported_labels(kind)}", "the cat " * 100, "the cat")
  assert code == 0 and "note: 1 of 2 texts are longer than the " in err


@pytest.mark.parametrize(
  "kind, arguments, words",
  [
    ("classification", [], "give texts or --input=FILE, not both"),
    ("classification", ["a", "--text=b"], "--text=COLUMN is a column of a table: give the table"),
    ("classification", ["--input=t.csv", "--text=b", "--text_pair=c", "--text_pair=d"], "--text_pair is one column"),
    ("question-answering", ["--input=t.csv"], "--question=TEXT is missing"),
    ("classification", ["a", "--question=b"], "does not answer questions; it was fine-tuned for classification"),
    ("question-answering", ["a"], "--question=TEXT is missing"),
    ("classification", ["a", "--text_pair=b", "--text_pair=c"], "1 texts and 2 second texts"),
    (
      "token-classification",
      ["a", "--text_pair=b"],
      "was fine-tuned for token-classification, which takes texts alone",
    ),
  ],
)
def test_what_a_model_cannot_do_is_one_message(call, exported_labels, kind, arguments, words):
  code, _, err = call("predict", f"--model={exported_labels(kind)}", *arguments)
  assert code == 1 and words in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_head_that_was_not_trained_is_not_exported(call, exported_labels, tmp_path):
  model, out = exported_labels("token-classification"), tmp_path / "out"
  code, _, err = call("export", f"--model={model}", f"--out={out}", "--head=question-answering")
  assert code == 1 and "has no such head: it was trained for token-classification" in err and not out.exists()
  code, _, err = call("export", f"--model={model}", f"--out={out}", "--head=mlm")
  assert code == 1 and "needs parameter mlm_head" in err and not out.exists()
  code, shown, _ = call("export", f"--model={model}", f"--out={out}")
  assert code == 0 and "token-classification weights" in shown and "B-PER" in (out / "config.json").read_text()
