"""What every parameter is, by its name: one table, and the few names that others need.

A parameter's name is its path in the tree, joined by "/": "encoder/layer_0/attention/query/kernel". PARAMETERS has one
row for it, which says how it may be split among devices (training/sharding.py), how deep it lies (layer-wise learning
rates and freezing, training/optimizer.py), and what it is used as (weight decay, the dtype it is sent in). A parameter
that no row matches, or two, is an error that names it, so nothing is left to a default in silence. Besides the modules
that create the parameters, only this table and convert/ know their names.
"""

import re
from typing import Any, NamedTuple

import jax

# Row.place: where a parameter stands, from below.
EMBEDDINGS, LAYER, TOP, HEAD = "embeddings", "layer", "top of the encoder", "head"
# Row.kind: multiplied by activations, looked up by ids, or a bias or scale.
MATRIX, TABLE, VECTOR = "matrix", "table", "vector"


class Row(NamedTuple):
  """What holds for every parameter whose name ends in a match of `pattern`.

  Attributes:
    pattern: regular expression, from the root of the parameters; moments of the optimizer have a path before it.
    axes: the logical name of each dimension, which training/sharding.AXES maps to mesh axes; None is never split.
    place: EMBEDDINGS, LAYER, TOP or HEAD, see `depth_of`.
    kind: MATRIX, TABLE or VECTOR.
    tensor_parallel: whether tensor parallelism has to split it where it is large. Declared apart from `axes`, so that
      sharding.check_sharded can hold one against the other.
  """

  pattern: str
  axes: tuple[str | None, ...]
  place: str
  kind: str
  tensor_parallel: bool = False

  @property
  def decays(self) -> bool:
    """Whether weight decay applies: to matrices and tables, not to biases and scales, as in BERT's own optimizer."""
    return self.kind != VECTOR


_LAYER = "encoder/layer_[0-9]+"

PARAMETERS: tuple[Row, ...] = (
  Row("encoder/embeddings/word_embeddings/embedding", ("vocab", "embed"), EMBEDDINGS, TABLE, True),
  Row("encoder/embeddings/position_embeddings/embedding", (None, "embed"), EMBEDDINGS, TABLE),
  Row("encoder/embeddings/token_type_embeddings/embedding", (None, None), EMBEDDINGS, TABLE),
  Row("encoder/embeddings/layer_norm/(scale|bias)", (None,), EMBEDDINGS, VECTOR),
  Row("encoder/embedding_projection/kernel", ("embed", None), EMBEDDINGS, MATRIX),  # narrow embeddings to hidden_size
  Row("encoder/embedding_projection/bias", (None,), EMBEDDINGS, VECTOR),
  Row(f"{_LAYER}/attention/(query|key|value)/kernel", ("embed", "heads"), LAYER, MATRIX, True),
  Row(f"{_LAYER}/attention/(query|key|value)/bias", ("heads",), LAYER, VECTOR),
  Row(f"{_LAYER}/attention/output/kernel", ("heads", "embed"), LAYER, MATRIX, True),
  Row(f"{_LAYER}/feed_forward/intermediate/kernel", ("embed", "mlp"), LAYER, MATRIX, True),
  Row(f"{_LAYER}/feed_forward/intermediate/bias", ("mlp",), LAYER, VECTOR),
  Row(f"{_LAYER}/feed_forward/output/kernel", ("mlp", "embed"), LAYER, MATRIX, True),
  Row(f"{_LAYER}/(attention|feed_forward)/output/bias", (None,), LAYER, VECTOR),
  Row(f"{_LAYER}/(attention|feed_forward)/layer_norm/(scale|bias)", (None,), LAYER, VECTOR),
  Row("encoder/final_norm/(scale|bias)", (None,), TOP, VECTOR),  # of layers that normalise their inputs
  Row("(pooler|mlm_head|classifier)/dense/kernel", ("embed", None), HEAD, MATRIX),
  Row("(nsp_head|span_head)/dense/kernel", (None, None), HEAD, MATRIX),  # two columns
  Row("(pooler|mlm_head|nsp_head|classifier|span_head)/dense/bias", (None,), HEAD, VECTOR),
  Row("mlm_head/layer_norm/(scale|bias)", (None,), HEAD, VECTOR),
  Row("mlm_head/bias", ("vocab",), HEAD, VECTOR),
)

# Heads of pretraining -> their subtrees.
SUBTREES = {"mlm": "mlm_head", "nsp": "nsp_head", "pooler": "pooler"}
# The subtrees that a fine-tuned model takes over from a pretrained one; its other heads are new.
PRETRAINED = ("encoder", "pooler")


def name_of(path: tuple) -> str:
  """The name of a leaf from its path, as jax.tree_util gives it."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def row_of(path: tuple) -> Row:
  """The row of a parameter, or of an optimizer's moment, by its path.

  Raises:
    ValueError: none, or more than one.
  """
  name = name_of(path)
  rows = [row for row in PARAMETERS if re.search(f"(^|/){row.pattern}$", name)]
  if not rows:
    raise ValueError(f"no row of models/parameters.py names the parameter {name}; add one")
  if len(rows) > 1:
    both = " and ".join(repr(row.pattern) for row in rows)
    raise ValueError(f"the rows {both} of models/parameters.py both name the parameter {name}; narrow one of them")
  return rows[0]


def num_layers(params: Any) -> int:
  """How many layers the encoder has; 0 for parameters without an encoder."""
  return sum(bool(re.fullmatch("layer_[0-9]+", name)) for name in params.get("encoder", {}))


def depth_of(path: tuple, num_layers: int) -> int:
  """How deep a parameter lies: 0 embeddings, 1 to num_layers the layers from below, num_layers + 1 what stands on the
  encoder.

  A projection of the embeddings belongs to them. A norm behind the last layer belongs to that layer: it does for a
  layer that normalises its input what the last of its own norms does in BERT, and whoever freezes all layers freezes
  the whole encoder.

  Raises:
    ValueError: a parameter that not exactly one row matches.
  """
  place = row_of(path).place
  if place == LAYER:
    return int(re.findall("encoder/layer_([0-9]+)/", name_of(path))[0]) + 1
  return {EMBEDDINGS: 0, TOP: num_layers, HEAD: num_layers + 1}[place]


def heads_of(params: Any) -> frozenset[str]:
  """Which heads of pretraining, keys of SUBTREES, there are parameters for."""
  return frozenset(head for head, subtree in SUBTREES.items() if subtree in params)


def head(params: Any, name: str) -> Any:
  """The subtree of a head of pretraining, a key of SUBTREES."""
  return params[SUBTREES[name]]


def word_embeddings(params: Any) -> Any:
  """[V', H], the table of word vectors, padding rows included."""
  return params["encoder"]["embeddings"]["word_embeddings"]["embedding"]
