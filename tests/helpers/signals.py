"""What processes that tests start inherit."""

import signal


def heed_hang_ups() -> None:
  """For `preexec_fn`: SIGHUP as from a terminal. Under nohup it is ignored, and every child would inherit that."""
  signal.signal(signal.SIGHUP, signal.SIG_DFL)
