"""pytest-poolguard: fails the tests that leak pool connections, and says which line took them."""
