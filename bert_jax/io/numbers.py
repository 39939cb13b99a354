"""Numbers as people read them, on the terminal, in messages and on charts."""


def duration(seconds: float) -> str:
  """1:02:03 (hours, minutes, seconds)."""
  minutes, seconds = divmod(round(seconds), 60)
  return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def count(value: float) -> str:
  """987, 9,870, 25.1k, 1.53M: whole numbers, short."""
  for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(value) >= max(0.9995 * size, 1e4):
      return f"{value / size:.3g}{unit}"
  return f"{value:,.0f}"
