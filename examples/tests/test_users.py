from shop import users


def test_a_customer_is_found(ada):
    assert users.get_user(ada).name == "Ada"


def test_a_second_look_finds_the_same(ada):
    assert users.get_user(ada) is users.get_user(ada)


def test_an_unknown_id_is_nobody():
    assert users.get_user(0) is None
