"""Parameters that models may have which are not written yet."""

import jax
import numpy as np


def later_family(layers: int = 3, hidden: int = 16, embedding: int = 8):
  """The parameters, as shapes, of an encoder with what BERT lacks: a norm behind its last layer (ModernBERT), and
  embeddings that are projected to the width of the layers (ALBERT).
  """
  shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, np.float32)
  norm = lambda: {"scale": shape(hidden), "bias": shape(hidden)}
  dense = lambda inputs, outputs: {"kernel": shape(inputs, outputs), "bias": shape(outputs)}

  def layer():
    attention = {name: dense(hidden, hidden) for name in ("query", "key", "value", "output")}
    feed_forward = {"intermediate": dense(hidden, 2 * hidden), "output": dense(2 * hidden, hidden)}
    return {"attention": attention | {"layer_norm": norm()}, "feed_forward": feed_forward | {"layer_norm": norm()}}

  tables = {"word_embeddings": 128, "position_embeddings": 32, "token_type_embeddings": 2}
  return {
    "encoder": {
      "embeddings": {name: {"embedding": shape(rows, embedding)} for name, rows in tables.items()}
      | {"layer_norm": {"scale": shape(embedding), "bias": shape(embedding)}},
      "embedding_projection": dense(embedding, hidden),
      **{f"layer_{number}": layer() for number in range(layers)},
      "final_norm": {"scale": shape(hidden)},
    },
    "pooler": {"dense": dense(hidden, hidden)},
  }
