"""Quickstart: a very small BERT on the Python documentation of this very machine, in minutes on two CPU cores.

Paper:     the objectives and the layer of Devlin et al. 2018, arXiv 1810.04805; the size is ours.
Command:   make pretrain
           (python -m bert_jax pretrain --config=configs/quickstart.py --workdir=runs/quickstart)
Hardware:  2 CPU cores, 2 GB of memory, no download. It fits any TPU too, by plan, not run there:
           python -m bert_jax plan --config=configs/quickstart.py --topology=v5e:1x1
Cost:      2 min 54 s on two cores, installing included (about 2 min of it training).
Result:    eval/mlm_loss 4.24, 1.71 nats below the corpus's unigram entropy; eval/nsp_accuracy 0.768 over 3,426 pairs
           (majority 0.542). It learns which words go together in documentation; it is no model for anything else.
"""

from bert_jax.config import default_config


def get_config(variant: str = ""):
  if variant:
    raise ValueError(f"no variant {variant!r}: quickstart has none")
  config = default_config()
  config.total_steps = 9000
  config.log_every_steps = 100
  config.eval_every_steps = 4500
  config.data.corpus = "data/docstrings"
  config.data.source = "docstrings:"
  config.data.batch_size = 8
  config.prepare.vocab_size = 2048  # whole words for what is frequent, pieces for the rest: 1.2 tokens per word
  config.prepare.validation_fraction = 0.06
  config.model.preset = "bert-tiny"
  config.model.hidden_size = 64
  config.model.num_attention_heads = 2
  config.model.intermediate_size = 256
  config.model.max_position_embeddings = 128
  config.model.hidden_dropout_prob = 0.0  # one pass over the text: nothing is seen often enough to be learned by heart
  config.model.attention_probs_dropout_prob = 0.0
  config.model.initializer_range = 0.06  # 0.02 is made for a width of 768; this is the same for 64
  config.model.position_init = "sinusoidal"  # a model this small finds its neighbours thousands of steps earlier
  config.optimizer.learning_rate = 3e-3
  config.optimizer.b2 = 0.98  # moments of a short run with small batches
  config.optimizer.eps = 1e-8
  config.optimizer.warmup_steps = 300
  config.checkpoint.every_steps = 2000
  config.export.format = "transformers"
  return config
