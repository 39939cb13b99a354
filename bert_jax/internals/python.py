"""Python's private names. Seen to work with Python 3.11 to 3.13."""

import atexit


def run_exit_functions() -> None:
  """Calls what was registered with `atexit`, for a process that ends by os._exit."""
  atexit._run_exitfuncs()
