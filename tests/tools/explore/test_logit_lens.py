"""look.py: what it says of the last layer is what the model says; attention is transformers'; and both views show
it.
"""

import html.parser
import json
import re
import unicodedata

import jax
import numpy as np
import pytest
import torch
import transformers

from bert_jax.__main__ import main
from bert_jax.errors import UserError
from bert_jax.inference import model as inference
from bert_jax.models.pretraining import PretrainingModel
from bert_jax.tools.explore import logit_lens, logit_lens_page

TEXT = "the cat [MASK] on [MASK] mat."


@pytest.fixture(scope="module")
def model(exported):
  return inference.load_model(exported / "pretraining")


@pytest.fixture(scope="module")
def found(model):
  return logit_lens.logit_lens(model, TEXT)


def test_the_last_layer_says_what_fill_mask_says(model, found):
  assert found.tokens == ["[CLS]", "the", "cat", "[MASK]", "on", "[MASK]", "mat", ".", "[SEP]"]
  for mask, completions in zip(found.masks, inference.fill_mask(model, TEXT, 3), strict=True):
    for ours, its in zip(mask.layers[-1].completions, completions, strict=True):
      assert ours.token == its.token and ours.probability == pytest.approx(its.probability, rel=1e-4)
    assert mask.word == completions[0].token and mask.layers[-1].probability == pytest.approx(
      completions[0].probability, rel=1e-4
    )
    assert len(mask.layers) == 4


def test_other_layers_are_read_by_the_same_head(exported, found):
  model = transformers.BertForPreTraining.from_pretrained(exported / "pretraining").eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "pretraining")
  with torch.no_grad():
    states = model(**tokenizer(TEXT, return_tensors="pt"), output_hidden_states=True).hidden_states
    for layer, state in enumerate(states):
      head = model.cls.predictions
      log_p = torch.log_softmax(head(state)[0], -1).numpy()
      transformed = head.transform(state)[0].numpy()
      for mask in found.masks:
        one, row = mask.layers[layer], log_p[mask.place]
        word = tokenizer.convert_tokens_to_ids(mask.word)
        embedding = model.bert.embeddings.word_embeddings.weight[word].numpy()
        assert one.probability == pytest.approx(np.exp(row[word]), rel=1e-3, abs=1e-7)
        assert one.entropy == pytest.approx(-(np.exp(row) * row).sum(), rel=1e-3)
        vector = transformed[mask.place]
        assert one.cosine == pytest.approx(
          vector @ embedding / np.linalg.norm(vector) / np.linalg.norm(embedding), abs=1e-4
        )


def test_attention_is_that_of_transformers(exported, model):
  theirs = transformers.BertModel.from_pretrained(exported / "pretraining", attn_implementation="eager").eval()
  tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "pretraining")
  with torch.no_grad():
    attentions = theirs(**tokenizer(TEXT, return_tensors="pt"), output_attentions=True).attentions
  ids = [model.tokenizer.backend.encode(TEXT, add_special_tokens=False).ids]
  ours = logit_lens.layer_attention(model, inference.make_inputs(model, [(ids[0], [])]))
  length = attentions[0].shape[-1]
  for one, other in zip(ours, attentions, strict=True):
    np.testing.assert_allclose(one[:, :, :length, :length], other.numpy(), atol=1e-5)
    np.testing.assert_allclose(one[0, :, :length, length:], 0)


def test_rollout_is_a_mixture_of_tokens_and_of_two_layers_the_product(found):
  for mask in found.masks:
    assert mask.rollout.sum() == pytest.approx(1) and (mask.rollout > 0).all()
  one, two = [[[0.5, 0.5], [0.0, 1.0]]], [[[1.0, 0.0], [1.0, 0.0]]]  # of one head each
  np.testing.assert_allclose(
    logit_lens.rollout(np.array([one, two])), np.array([[1.0, 0.0], [0.5, 0.5]]) @ np.array([[0.75, 0.25], [0.0, 1.0]])
  )


def test_left_out_is_what_hiding_a_token_costs(model, found):
  first, second = found.masks
  assert np.isnan(first.left_out[[0, 3, 5, 8]]).all() and np.isfinite(first.left_out[[1, 2, 4, 6, 7]]).all()
  hidden = logit_lens.logit_lens(model, "the [MASK] [MASK] on [MASK] mat.", top_k=130)
  before = np.log(first.layers[-1].probability)
  after = next(c.probability for c in hidden.masks[1].layers[-1].completions if c.token == first.word)
  assert first.left_out[2] == pytest.approx(before - np.log(after), abs=1e-3)
  assert not np.allclose(first.left_out[[1, 2, 4]], second.left_out[[1, 2, 4]])


@pytest.mark.parametrize("text, words", [("no mask", "no .MASK. in"), ("[MASK] " * 60, "this model takes at most 38")])
def test_a_text_that_cannot_be_looked_at_is_refused(model, text, words):
  with pytest.raises(UserError, match=words):
    logit_lens.logit_lens(model, text)
  with pytest.raises(UserError, match="does not have"):
    logit_lens.logit_lens(model._replace(heads=frozenset()), TEXT)


class Text(html.parser.HTMLParser):
  def __init__(self):
    super().__init__()
    self.seen, self.sources = "", []

  def handle_data(self, data):
    self.seen += data

  def handle_starttag(self, tag, attributes):
    self.sources += [value for name, value in attributes if name in ("src", "href")]


def test_the_page_needs_nothing_else_and_shows_what_the_terminal_does(model, found):
  chinese = logit_lens.logit_lens(model, "猫 <b> & [MASK]")
  page, text = Text(), logit_lens_page.logit_lens_page([found, chinese], "runs/base", 130)
  page.feed(text)
  assert not page.sources and "http" not in re.sub(r"http://www.w3.org/2000/svg", "", text)
  assert "猫 <b> & [MASK]" in page.seen and "<b> &" not in text and "embeddings" in page.seen
  marked = found._replace(tokens=["<i>", *found.tokens[1:]])  # a vocabulary may hold such pieces
  assert "&lt;i&gt;<small>" in logit_lens_page.logit_lens_page([marked], "runs/base", 130)
  assert text.count('class="chart"') == 3 * 3 and text.count("class=here") == 2 * 3  # two masks and one
  shown = logit_lens_page.lines(found)
  assert f"[MASK] 2 of 2: {found.masks[1].word}" in shown and "embeddings" in shown
  for mask in found.masks:
    for place in (1, 4, 8):
      assert f"{found.tokens[place]}<small>{mask.rollout[place]:.1%}</small>" in text
    assert f"{mask.left_out[1]:+.3f}" in shown and f"{mask.rollout[1]:.1%}" in shown
    for layer in mask.layers:
      assert (
        f"{layer.probability:.1%}" in shown
        and f"{layer.probability:.1%}" in page.seen
        and f"{layer.cosine:.2f}" in shown
      )
  assert all(
    meaning in page.seen and meaning in logit_lens_page.logit_lens_legend() for _, meaning in logit_lens_page.LEGEND
  )


def test_a_text_of_masks_alone_has_no_tokens_to_weigh(model):
  shown = logit_lens_page.lines(logit_lens.logit_lens(model, "[MASK] [MASK]"))
  assert "[MASK] 2 of 2" in shown and "left out" not in shown and "rollout" not in shown


def test_of_a_long_text_the_weightiest_tokens_are_listed_in_their_order(model):
  found = logit_lens.logit_lens(model, "the cat sat on the mat, a b c d e f g h [MASK].")
  (mask,) = found.masks
  shown = logit_lens_page.lines(found).split("rollout\n")[1].splitlines()
  weights = [float(line.split()[1]) for line in shown[:-1]]
  every = mask.left_out[np.isfinite(mask.left_out)]
  assert sorted(np.abs(weights)) == pytest.approx(sorted(np.abs(every))[-12:], abs=6e-4)
  assert [line.split()[0] for line in shown[:-1]] == [
    token for token, value in zip(found.tokens, mask.left_out) if f"{value:+.3f}" in {f"{w:+.3f}" for w in weights}
  ]
  assert shown[-1].startswith("  4 other tokens, the masks, [CLS] and [SEP]")
  shares = sum(
    float(line.split()[-1].rstrip("%")) if line.split()[-1].endswith("%") else float(line.split()[-2].rstrip("%"))
    for line in shown
  )
  assert shares == pytest.approx(100, abs=1)


def test_columns_of_the_terminal_stand_beneath_each_other_in_chinese_too():
  columns = lambda text: sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
  for text in ("a", "首都", "##ing", "一二三四五六七八九十", "x" * 30, "一二三四五六七八x", "ＡＢ！"):
    assert columns(logit_lens_page._fit(text, 18)) == 18
  assert (
    logit_lens_page._fit("首都", 6) == "首都  "
    and logit_lens_page._fit("ＡＢ", 6) == "ＡＢ  "
    and logit_lens_page._fit("一二三四", 6) == "一二… "
    and logit_lens_page._fit("首都首", 6) == "首都… "
  )


@pytest.mark.parametrize(
  "words, settled, said",
  [
    ("abcc", 2, "most likely from layer 2 on"),
    ("cabc", 3, "most likely only in the last layer"),
    ("cccc", 0, "most likely in all layers"),
  ],
)
def test_the_layer_is_told_from_which_on_the_answer_stands(words, settled, said):
  layers = [logit_lens.Layer([inference.Completion(word, 0, 0.5)], 0.5, 1.0, 0.1) for word in words]
  mask = logit_lens.Mask(1, layers, "c", np.zeros(3), np.zeros(3))
  assert mask.settled == settled and logit_lens_page.settled(mask) == said


def test_the_command_writes_the_page_and_json(exported, tmp_path, capsys):
  assert main(["look", f"--model={exported / 'mlm'}", TEXT, "--json", f"--html={tmp_path / 'look.html'}"]) == 0
  content = json.loads(capsys.readouterr().out)
  assert content["masks"][0]["left_out"][0] is None and len(content["masks"][0]["layers"]) == 4
  assert (tmp_path / "look.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
  (tmp_path / "file").write_text("")
  assert main(["look", f"--model={exported / 'mlm'}", TEXT, f"--html={tmp_path / 'file' / 'look.html'}"]) == 1
  assert f"cannot write --html={tmp_path / 'file' / 'look.html'}" in capsys.readouterr().err


def test_attention_is_kept_only_where_it_is_asked_for(model):
  inputs = inference.make_inputs(model, [([7, 8], [])])
  module = PretrainingModel(model.config)
  assert set(module.init(jax.random.key(0), inputs, None)) == {"params"}
  plain = lambda params: module.apply({"params": params}, inputs, None).sequence_output
  asked = lambda params: module.apply({"params": params}, inputs, None, mutable="intermediates")
  exponentials = lambda function: str(jax.make_jaxpr(function)(model.params)).count("= exp ")
  assert (
    exponentials(asked) == 2 * exponentials(plain) == 2 * model.config.num_hidden_layers
  )  # one softmax a layer, and one more
