"""A run in which poolguard has nothing to watch, and says so."""


def test_without_a_database():
    assert sorted("ba") == ["a", "b"]
