"""next-sentence: whether B follows A."""


def test_next_sentence_tells_of_what_it_cut(call, model):
  code, shown, err = call("next-sentence", f"--model={model}", "the cat sat.", "on the mat.")
  assert code == 0 and not err and "label 0" in shown
  code, shown, err = call("next-sentence", f"--model={model}", "cat " * 600, "on the mat.")
  assert code == 0 and "the two have 604 tokens and the model takes 37" in err
  code, _, err = call("next-sentence", f"--model={model}", "the cat", " ")
  assert code == 1 and "two sentences that are not empty" in err
