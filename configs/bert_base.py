"""BERT-base, uncased, in the two phases of the paper: rows of 128 tokens, then of 512.

Paper:     Devlin et al. 2018, arXiv 1810.04805, appendix A.2: batch 256 sequences, 1,000,000 steps, 90 % of them at
           length 128, Adam 1e-4, warmup 10,000 steps, linear decay, dropout 0.1, weight decay 0.01.
Command:   python -m bert_jax prepare --source='wikiextractor:wiki/*/wiki_*.bz2' --tokenizer=vocab.txt \\
               --seq_length=128 --out=data/wiki-128           (and --seq_length=512 --out=data/wiki-512)
           python -m bert_jax pretrain --config=configs/bert_base.py:phase1 --workdir=runs/base-128
           python -m bert_jax pretrain --config=configs/bert_base.py:phase2 --workdir=runs/base-512
Hardware:  not run yet. By `plan`, which compiles the step for a TPU pod (times: if all overlaps, to if nothing does):
           python -m bert_jax plan --config=configs/bert_base.py:phase1 --topology=v5e:4x4
               2.2 of 16.0 GiB a chip, 8.3 to 19.3 ms a step, 33 to 77 chip-hours
           python -m bert_jax plan --config=configs/bert_base.py:phase2 --topology=v5e:4x4 --steps=100000
               5.6 of 16.0 GiB a chip, 26.1 to 48.4 ms a step, 12 to 22 chip-hours
           By its formula one GPU of 80 GB also holds phase 1, and phase 2 with optimizer.microbatches=2.
Cost:      expected, not run: 42.6 G tokens (29.5 G of them in rows of 128) and 2.4e19 FLOPs by the formula of
bert_jax/flops.py.
           At 40 % of the bf16 peak that is 84 chip-hours of TPU v5e (plan, for both phases: 45 if everything overlaps,
           98 if nothing does) or 17 hours on one H200.
Result:    expected from the paper's release: masked-LM accuracy about 0.70, NSP accuracy above 0.97. Not run.

Batch sizes are in rows, and a row of this corpus may hold several packed pairs: 256 rows hold at least the
paper's 256 sequences. The two phases are one schedule, as in the paper: phase 1 stops at step 900,000, and phase 2
takes over parameters, moments and step from it.
"""

from bert_jax.config import default_config


def get_config(variant: str = "phase1"):
  variant = variant or "phase1"
  if variant not in ("phase1", "phase2", "local"):
    raise ValueError(
      f"no variant {variant!r}; there are phase1 (length 128), phase2 (length 512) and local (a try on a CPU)"
    )
  config = default_config()
  config.total_steps = 1_000_000
  config.log_every_steps = 100
  config.eval_every_steps = 10_000
  config.data.batch_size = 256
  config.model.preset = "bert-base"
  config.model.dtype = "bfloat16"
  config.optimizer.learning_rate = 1e-4
  config.optimizer.warmup_steps = 10_000
  config.checkpoint.every_steps = 5_000
  config.export.format = "transformers"
  config.data.corpus = "data/wiki-128"
  config.prepare.seq_length = 128
  if variant == "phase1":
    config.stop_at_step = 900_000
  if variant == "phase2":
    config.data.corpus = "data/wiki-512"
    config.prepare.seq_length = 512
    config.init_from = "runs/base-128"
    config.init_optimizer = True
  if variant == "local":  # a few steps to see that everything is in place
    config.total_steps = 20
    config.log_every_steps = 5
    config.eval_rows = 16
    config.data.batch_size = 8
    config.model.dtype = "float32"
    config.optimizer.warmup_steps = 5
  return config
