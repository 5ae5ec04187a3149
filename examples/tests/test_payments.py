import pytest
from shop import payments


def test_a_card_is_charged_in_full(order):
    charges = []
    payments.pay(order, charges.append)
    assert charges == [5000]
    assert payments.is_paid(order)


def test_a_declined_card_pays_nothing(order):
    def decline(_cents):
        raise payments.CardDeclined

    with pytest.raises(payments.CardDeclined):
        payments.pay(order, decline)
    assert not payments.is_paid(order)
