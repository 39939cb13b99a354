"""What is hidden from an import is hidden for its length only, and from one import at a time."""

import sys
import threading

import pytest

from bert_jax.io.lazy_imports import LazyModule, without


def test_a_lazy_module_is_imported_when_an_attribute_is_read():
  lazy = LazyModule("nturl2path")
  assert "nturl2path" not in sys.modules
  assert lazy.url2pathname is sys.modules["nturl2path"].url2pathname


def test_a_module_is_hidden_inside_and_found_again_outside():
  assert "mailbox" not in sys.modules
  with without("mailbox"), pytest.raises(ImportError):
    import mailbox
  import mailbox

  with without("mailbox"):  # imported by now
    assert sys.modules["mailbox"] is mailbox
  assert sys.modules["mailbox"] is mailbox


def test_a_module_is_found_again_after_an_import_that_failed():
  with pytest.raises(ZeroDivisionError), without("nntplib"):
    raise ZeroDivisionError
  assert "nntplib" not in sys.modules


def test_two_threads_do_not_import_at_once():
  inside, order = threading.Event(), []

  def second():
    inside.wait()
    with without("nntplib"):
      order.append("second")

  thread = threading.Thread(target=second)
  thread.start()
  with without("nntplib"):
    inside.set()
    thread.join(0.1)
    order.append("first")
  thread.join()
  assert order == ["first", "second"] and "nntplib" not in sys.modules
