"""How the command ends: the one exception that a user should ever see, and the exit codes that schedulers act on."""

# A scheduler starts the same command again after any of these, and the run goes on from its newest checkpoint.
EXIT_PREEMPTED = 75  # the machine is about to be taken away (SIGTERM), and the step was saved; EX_TEMPFAIL of sysexits.h
EXIT_PEER_LOST = 76  # another process of the run has died or gone silent
EXIT_STALLED = 77  # the watchdog ended a run that stood still


class UserError(Exception):
  """A mistake that the user can mend: bad input, a wrong key, a full disk.

  The message is one clear text: which file and line (or key), what was
  expected, what came, and the remedy. The command line prints it without a
  traceback and exits with code 1.
  """
