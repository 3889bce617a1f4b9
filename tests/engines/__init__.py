import pytest

pytest.register_assert_rewrite("tests.engines.contract", "tests.engines.pair_contract", "tests.engines.world")
