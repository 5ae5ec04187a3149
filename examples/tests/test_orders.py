import pytest
from shop import catalog, orders


def test_an_order_lowers_the_stock(ada, teapot):
    orders.place_order(ada, teapot, 2)
    assert catalog.get_product(teapot).stock == 1


def test_an_order_costs_what_its_pieces_do(order):
    assert orders.amount_due(order) == 5000


def test_no_more_is_sold_than_there_is(ada, teapot):
    with pytest.raises(orders.OutOfStock):
        orders.place_order(ada, teapot, 4)
    assert catalog.get_product(teapot).stock == 3
