"""The keys that every run has: a row for each, in the order in which they are listed."""

from bert_jax.config import choices
from bert_jax.config.key import SHARE, Key, Range, at_least
from bert_jax.models.config import PRESETS

_DTYPES = ("float32", "bfloat16")

ROWS = [
  # The run
  Key("total_steps", 1000, "Optimizer updates in the whole schedule.", at_least(1)),
  Key(
    "stop_at_step",
    0,
    "Step after which the run saves and ends, although the schedule goes to total_steps; 0: total_steps.",
    at_least(0),
    free=True,
  ),
  Key("log_every_steps", 50, "Steps between two logged lines of training metrics.", at_least(1), free=True),
  Key(
    "eval_every_steps",
    1000,
    "Steps between two evaluations; the last step is always evaluated.",
    at_least(1),
    free=True,
  ),
  Key("eval_rows", 0, "Rows of the validation split that an evaluation reads; 0: all.", at_least(0), free=True),
  Key(
    "objective",
    "mlm",
    "What is learned in pretraining: mlm, masked tokens and what the labels of the corpus say of pairs.",
    choices=choices.objectives,
  ),
  Key(
    "seed",
    0,
    "Seed of the initial parameters, the order of rows, masks and dropout.",
    Range(0, 2**32 - 1),  # jax.random.key drops what is above 32 bits
  ),
  Key("deterministic", False, "Bitwise reproducible on GPU too, at some speed; CPU and TPU always are."),
  Key(
    "init_from",
    "",
    "Run folder or Hugging Face folder whose parameters the run starts from; empty: from scratch.",
    free=True,
    path=True,
  ),
  Key("init_optimizer", False, "Takes the optimizer moments and the step of the run in init_from as well."),
  Key(
    "max_bad_steps",
    20,
    "Skipped updates in a row, each for a non-finite loss or gradient, before the run goes back to a checkpoint.",
    at_least(1),
    free=True,
  ),
  Key(
    "max_rollbacks",
    3,
    "Times that the run goes back to one and the same checkpoint, past the bad data each time, before it stops.",
    at_least(0),
    free=True,
  ),
  # Rows that are trained on
  Key("data.corpus", "", "The corpus folder.", free=True, path=True),
  Key(
    "data.mixture",
    "",
    "Several corpora instead of data.corpus, with their shares of the rows: DIR=WEIGHT,DIR=WEIGHT.",
    path=True,
  ),
  Key(
    "data.source",
    "",
    "Raw text that data.corpus is prepared from when it is missing, as in docstrings: or text:books/*.txt.",
    free=True,
    path=True,
  ),
  Key("data.batch_size", 256, "Rows in a global batch; a packed row holds several sequences.", at_least(1)),
  Key(
    "data.loader",
    "tfdata",
    "What reads batches ahead: tfdata, or threads, which needs no TensorFlow; the batches are the same.",
    choices=choices.loaders,
    free=True,
  ),
  Key(
    "data.cache_dir",
    "",
    "Local folder that a remote corpus is copied to; empty: the corpus is read where it is.",
    free=True,
    path=True,
  ),
  # How raw text becomes a corpus. Its ranges are those of data/corpus/job.py, which `prepare` calls without a config.
  Key(
    "prepare.tokenizer",
    "",
    "vocab.txt or tokenizer folder that is used; empty: a vocabulary is trained.",
    free=True,
    path=True,
  ),
  Key("prepare.vocab_size", 30522, "Entries of a trained vocabulary, the five special tokens included.", free=True),
  Key("prepare.lowercase", True, "Lowercases, as BERT uncased; a tokenizer folder says it itself.", free=True),
  Key(
    "prepare.strip_accents",
    None,
    "Strips accents and other marks, as BERT uncased; None: where the texts are lowercased, and neither a given "
    "vocabulary nor more than one word in a hundred of the text holds any.",
    free=True,
    derived=bool,
  ),
  Key("prepare.seq_length", 128, "Tokens in a row, [CLS] and [SEP] included.", free=True),
  Key(
    "prepare.objective",
    "nsp",
    "What rows are made of; nsp: next-sentence pairs (BERT), sop: pairs in order or swapped (ALBERT), none: plain text "
    "(RoBERTa).",
    choices=choices.pairings,
    free=True,
  ),
  Key("prepare.max_sequences", 8, "Sequences packed into one row at most; 1: no packing.", free=True),
  Key(
    "prepare.validation_fraction",
    0.05,
    "Share of the text that is held out: documents chosen by content, or of a few long ones a piece of each.",
    free=True,
  ),
  Key(
    "prepare.short_probability", 0.1, "Share of the pairs with a random shorter target length (BERT: 0.1).", free=True
  ),
  Key("prepare.seed", 12345, "Seed of pairs, random sentences and lengths.", free=True),
  Key("prepare.workers", 0, "Worker processes; 0: one per core. The corpus is the same for any number.", free=True),
  Key("prepare.skip_bad", False, "Skips and counts undecodable lines instead of stopping.", free=True),
  Key("prepare.text_field", "text", "Name of the text in jsonl:, parquet: and tfds: sources.", free=True),
  Key("prepare.deduplicate", False, "Drops exact duplicates of a document.", free=True),
  Key("prepare.min_characters", 0, "Characters that a document must have, or it is dropped.", free=True),
  Key(
    "prepare.word_segmenter",
    "",
    "jieba: stores where Chinese words begin, for masking.unit=word; empty: the vocabulary tells.",
    choices=choices.word_segmenters,
    free=True,
  ),
  # Masks
  Key(
    "masking.rate",
    0.15,
    "Share of a row's maskable tokens that are predicted: at the last step, should it change, and in evaluation.",
    Range(0, 1, above=True),
  ),
  Key(
    "masking.first_rate",
    0.0,
    "Share of the tokens predicted at step 0, from where it goes straight to masking.rate at the last step; 0: no "
    "change.",
    SHARE,
  ),
  Key("masking.mask_share", 0.8, "Share of the predicted tokens replaced by [MASK].", SHARE),
  Key(
    "masking.random_share",
    0.1,
    "Share of the predicted tokens replaced by a random token; the rest stay as they are.",
    SHARE,
  ),
  Key(
    "masking.unit",
    "token",
    "What is masked as a whole; token: single tokens, word: all pieces of a word, span: runs of words (SpanBERT), "
    "ngram: runs of words (ALBERT).",
    choices=choices.masking_units,
  ),
  Key(
    "masking.span_stop",
    0.2,
    "Parameter of the length of spans: n words with a probability that goes as (1 - span_stop)^n.",
    SHARE,
  ),
  Key("masking.max_span", 10, "Words in a span at most, with masking.unit=span.", at_least(1)),
  Key(
    "masking.max_ngram",
    3,
    "Words in an n-gram at most, with masking.unit=ngram; n words have a probability that goes as 1/n.",
    at_least(1),
  ),
  Key(
    "masking.max_predictions",
    None,
    "Predicted tokens in a row at most; by default the highest rate times the row length, rounded up.",
    at_least(1),
    derived=int,
  ),
  # The model
  Key("model.preset", "bert-base", "The encoder whose fields hold where none of them is set.", choices=tuple(PRESETS)),
  Key("model.dtype", "float32", "Dtype of activations and matrix products: float32 or bfloat16.", choices=_DTYPES),
  Key("model.param_dtype", "float32", "Dtype of parameters and gradients: float32 or bfloat16.", choices=_DTYPES),
  Key(
    "model.remat",
    "none",
    "What the backward pass recomputes to save memory: none, dots (all but matrix products) or full (whole layers).",
    choices=choices.remats,
    free=True,
  ),
  Key(
    "model.attention",
    "auto",
    "Implementation of attention: auto, xla, splash (TPU), cudnn (GPU from Hopper on) or tokamax (GPU); see "
    "docs/performance.md.",
    choices=choices.attentions,
    free=True,
  ),
  # The optimizer
  Key("optimizer.name", "adamw", "The optimizer: adamw or lamb.", choices=("lamb",)),
  Key("optimizer.learning_rate", 1e-4, "Peak of the learning rate.", at_least(0)),
  Key(
    "optimizer.warmup_steps", 100, "Steps in which the learning rate rises linearly from 0 to its peak.", at_least(0)
  ),
  Key(
    "optimizer.schedule",
    "linear",
    "Course of the learning rate after the warmup: linear (decay to 0 at total_steps) or wsd (stable, then decay).",
    choices=("wsd",),
  ),
  Key("optimizer.decay_fraction", 0.1, "Share of total_steps spent in the final decay, with schedule=wsd.", SHARE),
  Key("optimizer.b1", 0.9, "Decay of the first moment.", Range(0, 1, below=True)),
  Key("optimizer.b2", 0.999, "Decay of the second moment.", Range(0, 1, below=True)),
  Key("optimizer.eps", 1e-6, "Number added to the root of the second moment (BERT: 1e-6).", at_least(0)),
  Key(
    "optimizer.moments_dtype",
    "float32",
    "Dtype that both moments are kept in: float32, or bfloat16, which halves their memory and rounds without bias.",
    choices=_DTYPES,
  ),
  Key(
    "optimizer.weight_decay", 0.01, "Decoupled weight decay of matrices; biases and LayerNorm have none.", at_least(0)
  ),
  Key(
    "optimizer.layer_decay",
    1.0,
    "Factor of the learning rate from each layer to the one below (ELECTRA: 0.8); 1: the same for all.",
    SHARE,
  ),
  Key(
    "optimizer.frozen_layers",
    -1,
    "Layers from below that stay as they are, embeddings with them; 0: the embeddings alone, -1: none.",
  ),
  Key("optimizer.clip_norm", 1.0, "Global norm that gradients are clipped to; 0: no clipping.", at_least(0)),
  Key(
    "optimizer.microbatches",
    1,
    "Parts that a batch is split into, one after another, to save memory.",
    at_least(1),
    free=True,
  ),
  # Devices and processes
  Key("mesh.data", -1, "Devices that split the batch and hold whole parameters; -1: what is left.", free=True),
  Key("mesh.fsdp", 1, "Devices that split the batch and the parameters.", free=True),
  Key("mesh.tensor", 1, "Devices that split each layer's matrices.", free=True),
  Key(
    "cluster.connect_seconds",
    300,
    "Seconds that the processes of a run wait for each other at the start.",
    at_least(1),
    free=True,
  ),
  Key(
    "cluster.heartbeat_seconds",
    30,
    "Seconds of silence after which a process counts as lost, and the others end.",
    at_least(1),
    free=True,
  ),
  Key(
    "watchdog.start_seconds",
    3600,
    "Seconds after which a start (reading a checkpoint, compiling) is ended, with the stacks of all threads.",
    at_least(1),
    free=True,
  ),
  Key(
    "watchdog.step_seconds",
    600,
    "Seconds after which a step, a batch of evaluation or a save is ended, with the stacks of all threads; at least "
    "ten times the slowest so far.",
    at_least(1),
    free=True,
  ),
  # What is kept
  Key(
    "checkpoint.every_steps",
    1000,
    "Steps between two checkpoints; the last step is always saved.",
    at_least(1),
    free=True,
  ),
  Key("checkpoint.keep_last", 3, "Newest checkpoints that are kept, at least two.", at_least(0), free=True),
  Key(
    "checkpoint.keep_best",
    1,
    "Checkpoints with the best evaluation that are kept besides (in pretraining by the objective's headline metric).",
    at_least(0),
    free=True,
  ),
  Key(
    "export.format",
    "",
    "Folder that is written at the end: transformers or sentence-transformers; empty: none.",
    choices=("transformers", "sentence-transformers"),
    free=True,
  ),
]
