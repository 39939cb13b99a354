"""What a plain transformers script makes of the same rows: BertForPreTraining under PyTorch, to be compared with
`pretrain`.

    python benchmarks/transformers_pretrain.py --corpus=data/wiki --start=FOLDER --steps=4000 --out=runs/peer

The rows are those of `pretrain` with the same seed and batch size, in the same order, and the model starts from a
Hugging Face folder, so from the same weights where that folder was exported from ours. All else is as its users write
it: DataCollatorForLanguageModeling draws the masks, the model computes logits of all tokens, AdamW with a linear
schedule and gradients clipped to 1. Decay for matrices alone, as in ours. The corpus must hold one sequence per row
(`prepare --max_sequences=1`): transformers knows no packed rows. It saves its state now and then, and goes on from
there.
"""

import argparse
import itertools
import json
import pathlib
import time

import numpy as np
import torch
import transformers

from bert_jax.data.corpus.folder import open_corpus
from bert_jax.data.loading.input_pipeline import train_batches


def main() -> None:
  options = _parse_arguments()
  corpus = open_corpus(options.corpus)
  out = pathlib.Path(options.out)
  out.mkdir(parents=True, exist_ok=True)
  tokenizer = transformers.AutoTokenizer.from_pretrained(corpus.folder / "tokenizer")
  collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=options.mlm_probability)
  model = transformers.BertForPreTraining.from_pretrained(options.start, attn_implementation="sdpa").train()
  groups = [
    {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.01},
    {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
  ]
  optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-8)
  schedule = transformers.get_linear_schedule_with_warmup(optimizer, options.warmup_steps, options.steps)
  begun, spent = _restore(out / "state.pt", model, optimizer, schedule)
  torch.manual_seed(options.seed + begun)

  rows = train_batches(
    corpus.train,
    batch_size=options.batch_size,
    seed=options.seed,
    start=begun * options.batch_size,
    steps=options.steps - begun,
    loader="threads",
  )
  for step, batch in zip(itertools.count(begun + 1), rows):
    began = time.process_time()
    loss = model(**_inputs(collate, batch)).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    spent += time.process_time() - began
    if step % options.save_steps == 0 or step == options.steps:
      with (out / "log.jsonl").open("a") as log:
        print(json.dumps({"step": step, "loss": round(loss.item(), 4), "cpu_seconds": round(spent, 1)}), file=log)
      state = {
        "step": step,
        "spent": spent,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
      }
      torch.save(state, out / "state.partial")
      (out / "state.partial").replace(out / "state.pt")
  model.save_pretrained(out / "export")
  tokenizer.save_pretrained(out / "export")


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--corpus", required=True, help="a corpus folder with one sequence per row")
  parser.add_argument("--start", required=True, help="Hugging Face folder of the model to start from")
  parser.add_argument("--out", required=True, help="where to write; the model goes to OUT/export")
  parser.add_argument("--steps", type=int, required=True)
  parser.add_argument("--batch_size", type=int, default=32, help="rows in a batch")
  parser.add_argument("--learning_rate", type=float, default=1e-3)
  parser.add_argument(
    "--mlm_probability", type=float, default=0.15, help="share of the tokens that are predicted; masking.rate in ours"
  )
  parser.add_argument("--warmup_steps", type=int, default=300)
  parser.add_argument("--save_steps", type=int, default=250, help="steps between two savings")
  parser.add_argument("--seed", type=int, default=0)
  return parser.parse_args()


def _inputs(collate, batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
  """A batch as transformers takes it, masked anew."""
  if batch["sequences"].shape[1] != 1:
    raise SystemExit("this corpus packs several sequences into a row; prepare it with --max_sequences=1")
  length, first, label = batch["sequences"][:, 0].T[:, :, None]
  place = np.arange(batch["tokens"].shape[1])[None, :]
  real = place < length
  masked = collate(
    [{"input_ids": row, "attention_mask": mask} for row, mask in zip(batch["tokens"], real.astype(np.int64))]
  )
  return {
    **masked,
    "token_type_ids": torch.from_numpy((real & (place >= first)).astype(np.int64)),
    "next_sentence_label": torch.from_numpy(label[:, 0].astype(np.int64)),
  }


def _restore(path: pathlib.Path, model, optimizer, schedule) -> tuple[int, float]:
  """(steps done, CPU seconds they took), from an earlier start of this script."""
  if not path.exists():
    return 0, 0.0
  state = torch.load(path, weights_only=True)
  for name, into in (("model", model), ("optimizer", optimizer), ("schedule", schedule)):
    into.load_state_dict(state[name])
  return state["step"], state["spent"]


if __name__ == "__main__":
  main()
