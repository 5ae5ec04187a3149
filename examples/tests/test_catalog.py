from shop import catalog


def test_a_product_has_a_price(teapot):
    assert catalog.get_product(teapot).cents == 2500


def test_search_finds_parts_of_names():
    for name in ("Watering can", "Can opener", "Kettle"):
        catalog.add_product(name, cents=990, stock=1)
    assert [product.name for product in catalog.search("can")] == ["Can opener", "Watering can"]
