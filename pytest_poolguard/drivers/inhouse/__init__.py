"""Pool classes that the ini file names."""

from pytest_poolguard.drivers.inhouse.driver import InHouse

__all__ = ["InHouse"]
