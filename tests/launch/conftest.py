import pytest

from tests.launch.programs import Programs


@pytest.fixture
def programs(tmp_path) -> Programs:
  return Programs(tmp_path)
