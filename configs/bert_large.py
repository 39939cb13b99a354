"""BERT-large, uncased, in the two phases of the paper: rows of 128 tokens, then of 512.

Paper:     Devlin et al. 2018, arXiv 1810.04805, appendix A.2: batch 256 sequences, 1,000,000 steps, 90 % of them at
           length 128, Adam 1e-4, warmup 10,000 steps, linear decay, dropout 0.1, weight decay 0.01.
Command:   python -m bert_jax prepare --source='wikiextractor:wiki/*/wiki_*.bz2' --tokenizer=vocab.txt \\
               --seq_length=128 --out=data/wiki-128           (and --seq_length=512 --out=data/wiki-512)
           python -m bert_jax pretrain --config=configs/bert_large.py:phase1 --workdir=runs/large-128
           python -m bert_jax pretrain --config=configs/bert_large.py:phase2 --workdir=runs/large-512
Hardware:  not run yet. By `plan`, which compiles the step for a TPU pod (times: if all overlaps, to if nothing does):
           python -m bert_jax plan --config=configs/bert_large.py:phase1 --topology=v5e:4x4
               6.6 of 16.0 GiB a chip, 25.2 to 61.3 ms a step, 101 to 245 chip-hours
           python -m bert_jax plan --config=configs/bert_large.py:phase2 --topology=v5e:8x8 --steps=100000
               7.9 of 16.0 GiB a chip, 26.5 to 67.8 ms a step, 47 to 121 chip-hours
           By its formula eight GPUs of 80 GB hold both phases.
Cost:      expected, not run: 42.6 G tokens (29.5 G of them in rows of 128) and 8.2e19 FLOPs by the formula of
bert_jax/flops.py.
           At 40 % of the bf16 peak that is 290 chip-hours of TPU v5e (plan, for both phases: 148 if everything
           overlaps, 366 if nothing does) or 57 hours on one H200.
Result:    expected from the paper's release: masked-LM accuracy about 0.72 or more, NSP accuracy above 0.97. Not run.

Batch sizes are in rows, and a row of this corpus may hold several packed pairs: 256 rows hold at least the
paper's 256 sequences. The two phases are one schedule, as in the paper: phase 1 stops at step 900,000, and phase 2
takes over parameters, moments and step from it. Everything but the size is that of bert_base.py.
"""

import pathlib

from bert_jax.config import load_config

BASE = pathlib.Path(__file__).with_name("bert_base.py")


def get_config(variant: str = "phase1"):
  config = load_config(f"{BASE}:{variant}")
  config.model.preset = "bert-large"
  if variant == "phase2":
    config.init_from = "runs/large-128"
  return config
