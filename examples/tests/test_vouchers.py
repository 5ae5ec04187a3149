import pytest
from shop import vouchers


@pytest.fixture
def voucher():
    """A voucher of 10 %, given out by two campaigns."""
    vouchers.issue("WELCOME", 10)
    vouchers.issue("WELCOME", 20)
    return "WELCOME"


def test_a_voucher_lowers_the_price(voucher):
    assert vouchers.reduced(2500, voucher) == 2250


def test_an_unknown_code_lowers_nothing():
    assert vouchers.reduced(2500, "FREE") == 2500
