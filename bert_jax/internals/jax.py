"""JAX's private names, which any release may change. Seen to work with jax and jaxlib 0.10.2.

Each is imported when it is called for, so that a name that has gone breaks only what needs it.
"""

from collections.abc import Sequence
from typing import Any


def coordination_client() -> Any:
  """The client of JAX's coordination service (key-value store, barriers); None before `distributed.initialize`."""
  from jax._src import distributed

  return distributed.global_state.client


def scheduler() -> str | None:
  """JAX's name of the scheduler, pod or launcher that has started this process, or None."""
  from jax._src import clusters

  kinds = (kind for kind in clusters.ClusterEnv._cluster_types if not kind.opt_in_only_method)
  return next((kind.name for kind in kinds if kind.is_env_present()), None)


def ask_scheduler(timeout_seconds: int) -> tuple[str | None, int | None, int | None, Sequence[int] | None]:
  """(coordinator, number of processes, number of this one, its local devices), as the scheduler says."""
  from jax._src import clusters

  return clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout_seconds)


def cudnn_packed_attention(query, key, value, lengths, offsets, *, scale: float) -> Any:
  """cuDNN's attention on rows that hold several sequences. JAX's public function takes one length per row.

  Args:
    query, key, value: bfloat16 or float16 [B, L, N, D].
    lengths: int32 [B, S] of the sequences, -1 where there is none.
    offsets: int32 [B, S + 1], where they begin; -1 where there is none.
    scale: of the scores.

  Returns:
    [B, L, N, D]; what stands at padding is undefined, in the gradients too.
  """
  from jax._src.cudnn import fused_attention_stablehlo as cudnn

  return cudnn.dot_product_attention(
    query,
    key,
    value,
    q_seqlen=lengths,
    kv_seqlen=lengths,
    q_offsets=offsets,
    kv_offsets=offsets,
    scale=scale,
    mask_type=cudnn.MaskType.PADDING,
    qkv_layout="BTNH",
  )
