import pytest
from shop import orders, users
from shop.mailer import Mailer, Undeliverable


@pytest.fixture
def sent():
    """Every mail that was delivered."""
    return []


@pytest.fixture
def mailer(sent):
    """A mailer at work."""

    def deliver(address, text):
        if address.endswith(".invalid"):
            raise Undeliverable(address)
        sent.append(text)

    mailer = Mailer(deliver)
    mailer.start()
    yield mailer
    mailer.stop()


def test_the_customer_is_thanked(order, mailer, sent):
    mailer.thank_for(order)
    mailer.wait()
    assert sent == [f"Thank you for order {order}, Ada!"]


def test_a_wrong_address_stops_nothing(order, teapot, mailer, sent):
    bob = users.add_user("Bob", "bob@nowhere.invalid")
    mailer.thank_for(orders.place_order(bob, teapot))
    mailer.thank_for(order)
    mailer.wait()
    assert sent == [f"Thank you for order {order}, Ada!"]
