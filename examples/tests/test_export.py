import pytest
from shop import export


def test_an_order_is_a_line(order):
    assert f"{order},ada@example.org,Teapot,2" in list(export.lines())


@pytest.mark.usefixtures("order")
def test_the_preview_is_short():
    assert len(export.preview(1)) == 1
