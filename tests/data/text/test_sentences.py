"""Where sentences end, in English, Chinese and scripts with stops of their own."""

import random
import time

import pytest

from bert_jax.data.text import sentences
from bert_jax.data.text.sentences import split_sentences

# One string per case; " | " marks the boundaries that are expected.
_ENGLISH = [
  "It rained. | We stayed inside. | Then it stopped!  | Did it? | Yes.",
  "Mr. Smith and Dr. Jones met Mrs. Brown. | They left.",
  "See Fig. 3 and Eq. 4, e.g. NumPy, i.e. Arrays, cf. Smith et al. 2010. | The end.",
  "J. K. Rowling and George W. Bush met John F. Kennedy. | They talked.",
  "The U.S. Army left. | He lives in the U.S. | The city is large.",
  "Pi is 3.14 and version 2.0.1 costs $4.50. | No. 5 is out. | He said no. | Then he went.",
  "She waited... | Then she left. | Well... maybe not.",
  '"What?" he asked. | "Nothing!" | She (who knew.) smiled. | (It was late.) | [So they say.] | Good.',
  "He said, “It works.” | She agreed. | ‘Really?!’ | Yes!!! | OK?!",
  "The shop opens at 9 a.m. | The bus leaves at 5 p.m. and returns.",
  "We bought apples, pears, etc. | They were good. | Acme Inc. Holdings grew.",
  "1. Install it. | 2. Run it. | (a). Read it.",
  "Use foo.bar or www.example.com. | visit us. not here".replace(" | ", " "),
  "In Jan. 1990 it began. | On p. 12 and pp. 3 it says so.",
  "Is this vitamin C. | The answer is no.",
]
_CHINESE = [
  "今天下雨。|我们在家；|后来停了！|真的吗？|是的……|好",
  "他说：“你好。”|她走了。|（完。）|《书。》|再见",
  "“你好！”，他说。|“再见。”、“好。”她答。".replace("、“好。”她答", "、“好。”|她答"),
  '他问:"是吗？"|然后走了。|"好。"|她答。',
  "真的？！|是！！|第一句。 |第二句",
  "我用 Python 3.11. |它很好。|Hello! |我是 Dr. Li. |你好!|走吧?|好.|完",
  "「你好。」|他說。|『再見！』|圓周率是3.14。",
  "他用。|python 很好。|He left. |他走了。|Then she came.",
]


_OTHER_SCRIPTS = [
  "मैं घर गया। |वह आई।|क्या हुआ? |डॉ. शर्मा आए। |३।१४ सही है।",
  "धर्मक्षेत्रे कुरुक्षेत्रे।। १ ।। |सञ्जय उवाच॥ २ ॥ |अन्त॥",
  "ذهبت إلى البيت. |ماذا تقرأ؟ |«أين الكتاب؟» |لماذا؟! |نعم، هنا؟، قال.",
  "وہ گھر گیا۔ |بچے کھیل رہے ہیں۔|python اچھی ہے۔ |ختم",
  "ልጁ መጣ። |ውሃ ጠጣ።|ምን ሆነ፧ |አለቀ፨",
  "Նա եկավ։ |Ժամը 10։30 է։ |Վերջ։",
  "သူ လာသည်။ |စာ ဖတ်သည်။|ပြီးပြီ။",
  "គាត់មក។ |ផ្លែឈើ បន្លែ ។ល។ ច្រើន។ |ចប់៕",
  "བོད་ཡིག །|དེབ་ཀློག །",
  "春である．|次に３．１４と書く。|終わり",
  "Really‽ |Yes. |No⁈ It goes".replace("It", "it"),
]


def normal(text):
  return "".join(text.split())


@pytest.mark.parametrize("marked", _ENGLISH)
def test_english_sentences_end_where_a_reader_would_end_them(marked):
  assert split_sentences(marked.replace("| ", "")) == [part.strip() for part in marked.split("|")]


@pytest.mark.parametrize("marked", _CHINESE)
def test_chinese_and_mixed_sentences_end_at_their_stops(marked):
  assert split_sentences(marked.replace("|", "")) == [part.strip() for part in marked.split("|")]


@pytest.mark.parametrize("marked", _OTHER_SCRIPTS)
def test_sentences_of_other_scripts_end_at_their_own_stops(marked):
  assert split_sentences(marked.replace("|", "")) == [part.strip() for part in marked.split("|")]


def test_every_sentence_terminal_of_unicode_is_known_but_for_dots_that_stand_in_names():
  regex = pytest.importorskip("regex", reason="has Unicode's property Sentence_Terminal")
  known = sentences.ALL_STOPS
  terminals = {chr(point) for point in range(0x110000) if regex.match(r"\p{Sentence_Terminal}", chr(point))}
  assert terminals - known == {"\u2024", "\ufe52"}


def test_a_stop_of_another_script_elsewhere_in_a_text_changes_nothing_else():
  text = "\n".join(marked.replace("| ", "") for marked in _ENGLISH) + "\n" + "".join(_CHINESE).replace("|", "")
  assert split_sentences(text + "\n।") == [*split_sentences(text), "।"]


def test_a_newline_is_always_a_boundary():
  assert split_sentences("One line\nanother, with Mr.\nSmith\r\n\n 第一行\n第二行\u2028third") == [
    "One line",
    "another, with Mr.",
    "Smith",
    "第一行",
    "第二行",
    "third",
  ]


def test_nothing_gives_no_sentences():
  assert split_sentences("") == split_sentences(" \n\t\n\u3000") == []


def test_nothing_is_lost_whatever_the_text():
  alphabet = [
    *" \n\t.!?…。！？；，\"'“”‘’()（）「」《》[]abcABC12中文é",
    "Mr.",
    "e.g.",
    "U.S.",
    " The ",
    "……",
    "\u3000",
    *"।؟۔។．१«»،",
  ]
  for seed in range(3000):
    rng = random.Random(seed)
    text = "".join(rng.choices(alphabet, k=rng.randrange(1, 60)))
    sentences = split_sentences(text)
    assert normal("".join(sentences)) == normal(text), text
    assert all(sentence and sentence == sentence.strip() and "\n" not in sentence for sentence in sentences)
    # Each lies in the text as it is, one after the other.
    position = 0
    for sentence in sentences:
      position = text.index(sentence, position) + len(sentence)


def test_splitting_a_sentence_again_changes_nothing_for_plain_prose():
  text = "It rained all day. We stayed inside! Did they? 今天下雨。我们在家；"
  sentences = split_sentences(text)
  assert len(sentences) == 5
  assert [split_sentences(sentence) for sentence in sentences] == [[sentence] for sentence in sentences]


@pytest.mark.parametrize(
  "unit",
  [
    "word ",
    "中",
    ".",
    ". ",
    "A. ",
    "。”",
    '"。',
    "! a",
    "1.2.",
    ")",
    "。，",
    ".。",
    '…"',
    "No. 1",
    "?)",
    "।",
    "। ",
    "।1 ",
    "। 1",
    "؟،",
    "．",
  ],
)
def test_long_and_odd_texts_take_linear_time(unit):
  """Eight times the text takes eight times as long, not sixty-four; the best of three, for the machine is shared."""
  times = {}
  for size in (12_500, 100_000):
    text = unit * (size // len(unit))
    times[size] = []
    for _ in range(3):
      began = time.thread_time()
      sentences = split_sentences(text)
      times[size].append(time.thread_time() - began)
    assert normal("".join(sentences)) == normal(text)
  assert min(times[100_000]) < 24 * min(times[12_500])


def test_wikipedia_splits_into_sentences_of_the_usual_length(shared_data):
  import lzma

  for name, low, high in (("enwiki_AA_00-49", 80, 180), ("zhwiki_AA_00-49", 20, 60)):
    with lzma.open(shared_data / "pretraining" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
      text = file.read(1_000_000)
    sentences = split_sentences(text)
    assert normal("".join(sentences)) == normal(text)
    assert low < len(text) / len(sentences) < high
