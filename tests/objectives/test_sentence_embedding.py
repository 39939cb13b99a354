"""sentence_embedding.py: the losses of sentence-transformers, and the same gradient however a batch is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer import losses as theirs

from bert_jax import config as configs
from bert_jax.batch import model_inputs
from bert_jax.models.sentence import SentenceModel
from bert_jax.objectives import sentence_embedding
from bert_jax.objectives.sentence_embedding import TextRows
from bert_jax.training import collectives, sharding
from bert_jax.training.train_step import make_gradients
from tests.helpers.sentence_models import CONFIG, drawn, packed_batch

NOT_READ = model_inputs(jnp.zeros((6, 4), jnp.int32), jnp.zeros((6, 1, 3), jnp.int32))


class Given(torch.nn.Module):
  """Stands for a model: the vectors are given."""

  device = "cpu"

  def forward(self, features):
    return features


def rows_of(labels):
  return TextRows(NOT_READ, labels, jnp.ones(6), jnp.arange(6))


def mean(sums):
  return float(sums["loss"][0] / sums["loss"][1])


def vectors(texts, seed=0):
  return np.random.default_rng(seed).normal(0, 1, (6, texts, 32)).astype(np.float32)


def their_loss(loss, given, labels=None):
  features = [{"sentence_embedding": torch.tensor(given[:, text])} for text in range(given.shape[1])]
  return float(loss(features, None if labels is None else torch.tensor(labels)).detach())


@pytest.mark.parametrize("texts", [2, 3])
def test_in_batch_negatives_are_multiple_negatives_ranking(texts):
  given, every = vectors(texts), jnp.arange(6 * texts).reshape(6, texts)
  expected = their_loss(theirs.MultipleNegativesRankingLoss(Given(), scale=20.0), given)
  np.testing.assert_allclose(
    mean(sentence_embedding.ranking_loss(jnp.asarray(given), rows_of(every), 0.05)), expected, rtol=1e-5
  )


def test_cosine_is_cosine_similarity_loss():
  given, scores = vectors(2), np.linspace(0, 1, 6, dtype=np.float32)
  expected = their_loss(theirs.CosineSimilarityLoss(Given()), given, scores)
  np.testing.assert_allclose(
    mean(sentence_embedding.cosine_loss(jnp.asarray(given), rows_of(scores))), expected, rtol=1e-5
  )


def test_triplet_is_triplet_loss():
  given = vectors(3)
  expected = their_loss(theirs.TripletLoss(Given(), triplet_margin=0.7), given)
  assert 0 < expected < 5  # some triplets are within the margin, and some are not
  np.testing.assert_allclose(
    mean(sentence_embedding.triplet_loss(jnp.asarray(given), rows_of(None), 0.7)), expected, rtol=1e-5
  )


def test_triplets_of_equal_texts_have_a_gradient():
  same = jnp.ones((6, 3, 32))
  gradient = jax.grad(lambda x: sentence_embedding.triplet_loss(x, rows_of(None), 1.0)["loss"][0])(same)
  assert bool(jnp.all(jnp.isfinite(gradient)))


def test_softmax_is_softmax_loss():
  given, labels = vectors(2), np.array([0, 1, 2, 2, 1, 0], np.int32)
  model = SentenceModel(CONFIG, num_labels=3)
  params, objective = drawn(model, "softmax")
  loss = theirs.SoftmaxLoss(Given(), embedding_dimension=32, num_labels=3)
  with torch.no_grad():
    dense = params["classifier"]["dense"]
    loss.classifier.weight.copy_(torch.tensor(np.array(dense["kernel"]).T))
    loss.classifier.bias.copy_(torch.tensor(np.array(dense["bias"])))
  scores = model.apply({"params": params}, jnp.asarray(given), method="classify")
  ours = -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(6), labels])
  np.testing.assert_allclose(ours, their_loss(loss, given, labels.astype(np.int64)), rtol=1e-5)

  batch = packed_batch(2, np.tile(labels, 3)[:16])
  rows, weights, _ = objective.prepare(batch, None, 0)
  made = jax.jit(lambda params: objective.loss(params, rows, weights, None)[0])(params)
  read = np.asarray(jax.jit(lambda params: model.apply({"params": params}, rows.inputs))(params))
  kept = lambda part: torch.tensor(read[:, part])
  np.testing.assert_allclose(
    made,
    float(
      loss(
        [{"sentence_embedding": kept(0)}, {"sentence_embedding": kept(1)}],
        torch.tensor(batch["labels"], dtype=torch.int64),
      ).detach()
    ),
    rtol=1e-5,
  )


def cosines(given):
  unit = given / np.linalg.norm(given, axis=-1, keepdims=True)
  return np.concatenate([unit[:, 0] @ unit[:, text].T for text in range(1, given.shape[1])], axis=1) / 0.05


@pytest.mark.parametrize(
  "labels, left_out",
  [
    ([[0, 1], [2, 1], [3, 4], [5, 6], [7, 8], [9, 10]], [(0, 1), (1, 0)]),  # one answer to two questions
    ([[0, 1], [0, 2], [3, 4], [5, 6], [7, 8], [9, 10]], [(0, 1), (1, 0)]),  # two answers to one question
    ([[0, 1], [1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], [(1, 0)]),  # a text that is first here and second there
    (
      [[0, 1, 20], [2, 3, 1], [4, 5, 21], [6, 7, 22], [8, 9, 23], [10, 11, 24]],
      [(0, 7)],
    ),  # an answer that is a hard negative elsewhere
  ],
)
def test_a_text_is_no_negative_of_itself(labels, left_out):
  given = vectors(len(labels[0]), seed=1)
  scores = cosines(given)
  for row, candidate in left_out:
    scores[row, candidate] = -np.inf
  expected = np.mean(np.log(np.exp(scores).sum(1)) - np.diagonal(scores))
  found = mean(sentence_embedding.ranking_loss(jnp.asarray(given), rows_of(jnp.asarray(labels)), 0.05))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def gradients_of(
  model, params, batch, *, microbatches=1, change=lambda objective: objective, loss_name="in-batch", **mesh_shape
):
  """(loss, gradients) of a batch on a mesh."""
  config, mesh = configs.default_config(), None
  if mesh_shape:
    for axis, size in mesh_shape.items():
      configs.set_key(config, f"mesh.{axis}", size)
    mesh = sharding.make_mesh(config)
    specs = sharding.state_specs(params)
    params = jax.device_put(params, jax.tree.map(lambda spec: jax.sharding.NamedSharding(mesh, spec), specs))
    batch = sharding.put_batch(batch, mesh)
  objective = change(
    sentence_embedding.make_embedding_objective(
      model, loss_name, all_gather_rows=lambda rows: collectives.all_gather_rows(rows, mesh)
    )
  )
  (loss, _), grads, _ = jax.jit(make_gradients(objective, seed=0, microbatches=microbatches, mesh=mesh))(
    params, 1, batch
  )
  return jax.device_get((loss, grads))


def distance(left, right):
  """The largest difference of two trees, as a share of the largest number in the second."""
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(right))
  return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), left, right))) / largest


@pytest.fixture(scope="module")
def in_batch():
  """(model, params, batch, loss and gradients on one device in one part); with dropout, hard negatives, and a text
  twice.
  """
  model, batch = SentenceModel(CONFIG), packed_batch(3)
  params, _ = drawn(model, "in-batch")
  return model, params, batch, gradients_of(model, params, batch)


@pytest.mark.parametrize("microbatches, mesh", [(1, {"data": 8}), (2, {"data": 2, "fsdp": 2, "tensor": 2}), (4, {})])
def test_loss_and_gradient_are_those_of_one_device_and_one_part(in_batch, microbatches, mesh):
  model, params, batch, (loss, grads) = in_batch
  cut_loss, cut_grads = gradients_of(model, params, batch, microbatches=microbatches, **mesh)
  np.testing.assert_allclose(cut_loss, loss, rtol=1e-6)
  assert distance(cut_grads, grads) < 1e-5


def test_without_the_vectors_of_all_microbatches_the_gradient_would_be_another(in_batch):
  """Else the test above would say nothing."""
  model, params, batch, (_, grads) = in_batch
  _, cut = gradients_of(model, params, batch, microbatches=4, change=lambda objective: objective._replace(embed=None))
  assert distance(cut, grads) > 0.01


def test_microbatches_save_memory_though_the_loss_is_over_the_whole_batch(in_batch):
  model, params, _, _ = in_batch
  objective, batch = sentence_embedding.make_embedding_objective(model, "in-batch"), packed_batch(3, rows=128)
  compiled = lambda parts: (
    jax.jit(make_gradients(objective, seed=0, microbatches=parts)).lower(params, 1, batch).compile()
  )
  whole, parts = (compiled(parts).memory_analysis().temp_size_in_bytes for parts in (1, 8))
  assert parts < whole / 3


def test_simcse_reads_one_text_twice_with_different_dropout():
  batch = packed_batch(1)
  length = batch["tokens"].shape[1]
  once = batch["sequences"][:, :, 0]
  batch["tokens"] = np.pad(batch["tokens"], ((0, 0), (0, length)))
  for row, count in enumerate(once[:, 0]):
    batch["tokens"][row, count : 2 * count] = batch["tokens"][row, :count]
  batch["sequences"] = np.repeat(batch["sequences"], 2, axis=1)
  batch["labels"] = np.repeat(np.arange(16, dtype=np.int32)[:, None], 2, axis=1)
  params, objective = drawn(SentenceModel(CONFIG), "simcse")
  rows, _, _ = objective.prepare(batch, None, 0)
  embed = jax.jit(lambda keys: objective.embed(params, rows, keys))
  first, second = np.moveaxis(np.asarray(embed(jax.random.split(jax.random.key(1), 16))), 1, 0)
  assert np.abs(first - second).max(axis=1).min() > 0.01
  first, second = np.moveaxis(np.asarray(embed(None)), 1, 0)
  np.testing.assert_allclose(first, second, atol=1e-5)
