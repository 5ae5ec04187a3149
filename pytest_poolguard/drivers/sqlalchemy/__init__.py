"""SQLAlchemy's pools."""

from pytest_poolguard.drivers.sqlalchemy.driver import SQLAlchemy

__all__ = ["SQLAlchemy"]
