"""The one exception that a user should ever see."""


class UserError(Exception):
  """A mistake that the user can mend: bad input, a wrong key, a full disk.

  The message is one clear text: which file and line (or key), what was
  expected, what came, and the remedy. The command line prints it without a
  traceback and exits with code 1.
  """
