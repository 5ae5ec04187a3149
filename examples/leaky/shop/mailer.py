"""Mail to the customers, sent in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Queue

from shop import db

#: Sends a text to an address, or raises :class:`Undeliverable`.
Transport = Callable[[str, str], None]

log = logging.getLogger(__name__)


class Undeliverable(Exception):
    """The mail server took no mail for that address."""


class Mailer:
    """Sends mail one by one, in a thread of its own."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._orders: Queue[int | None] = Queue()
        self._thread = threading.Thread(target=self._work, name="mailer")

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is waiting, then end."""
        self._orders.put(None)
        self._thread.join()

    def thank_for(self, order_id: int) -> None:
        """Thank the customer for an order, some time soon."""
        self._orders.put(order_id)

    def wait(self) -> None:
        """Wait until everything asked for so far has been tried."""
        self._orders.join()

    def _work(self) -> None:
        while (order_id := self._orders.get()) is not None:
            try:
                self._send(order_id)
            except Exception as error:
                log.warning("nobody was thanked for order %s: %s", order_id, error)
            finally:
                self._orders.task_done()

    def _send(self, order_id: int) -> None:
        conn = db.pool().getconn()
        with conn.cursor() as cursor:
            cursor.execute(
                "SELECT email, name FROM users JOIN orders ON user_id = users.id WHERE orders.id = %s",
                (order_id,),
            )
            email, name = cursor.fetchone()
        self._transport(email, f"Thank you for order {order_id}, {name}!")
        db.pool().putconn(conn)
