"""The class of ``inhouse/``, named by the hook instead of the ini file."""

from __future__ import annotations

import pytest


@pytest.hookimpl(optionalhook=True)  # where poolguard is not installed, nobody calls it
def pytest_poolguard_drivers():
    from pytest_poolguard.drivers.inhouse import InHouse  # noqa: PLC0415
    from pytest_poolguard.naming import PoolClass  # noqa: PLC0415

    return [InHouse(PoolClass("stockroom.pool", "Pool", acquire="checkout", release="checkin", close="shutdown"))]
