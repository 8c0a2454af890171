"""The shop under failures: `pytest` in this folder starts a cluster, breaks it, and cleans up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from shop import OutOfStock, Shop

from cluster.testing import LocalCluster

STOCK = 100_000
CUSTOMERS = 4


@pytest.fixture
def shop(sextet: LocalCluster) -> Iterator[Shop]:
    shop = Shop(sextet.writer_url)
    yield shop
    shop.close()


class Customers:
    """They order one piece after the other until they are told to stop."""

    def __init__(self, shop: Shop, goods: str) -> None:
        self._shop = shop
        self._goods = goods
        self._stop = threading.Event()
        self.confirmed: list[str] = []
        self.failures: list[Exception] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CUSTOMERS)]

    def __enter__(self) -> Customers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, customer: int) -> None:
        count = 0
        while not self._stop.is_set():
            number = f"{self._goods}/{customer}/{count}"
            count += 1
            try:
                self._shop.order(number, self._goods, 1)
            except Exception as error:  # whatever it is, the test must show it
                self.failures.append(error)
                return
            self.confirmed.append(number)

    def more(self, sextet: LocalCluster, orders: int = 50) -> None:
        """Return once so many more orders are confirmed, by whatever customers are left."""
        wanted = len(self.confirmed) + orders
        sextet.until(
            lambda: len(self.confirmed) >= wanted or bool(self.failures), f"{orders} more orders"
        )


def kill(sextet: LocalCluster) -> None:
    """The writer dies. It is back in half a second, before anybody else would be named."""
    sextet.fault.kill("writer")


def kill_with_control(sextet: LocalCluster) -> None:
    """The writer dies, and so does the control plane, of which it must hear that it is the writer."""
    sextet.fault.kill("control")
    sextet.fault.kill("writer")


def hang(sextet: LocalCluster) -> None:
    """The writer hangs until another instance is the writer, and goes on as a replica of that one."""
    old = sextet.writer
    sextet.fault.pause(old)
    sextet.until(lambda: sextet.writer != old, f"another writer than {old}")
    sextet.fault.resume(old)
    assert sextet.writer != old


def lose_a_zone(sextet: LocalCluster) -> None:
    """Two of six copies are gone, and whatever instance was there."""
    sextet.fault.az_down("az3", for_s=2.0)


@pytest.mark.parametrize(
    ("strike", "times"), [(kill, 3), (kill_with_control, 3), (hang, 1), (lose_a_zone, 3)]
)
def test_every_confirmed_order_is_there_once(
    sextet: LocalCluster, shop: Shop, strike: Callable[[LocalCluster], None], times: int
) -> None:
    goods = strike.__name__
    shop.deliver(goods, STOCK)
    with Customers(shop, goods) as customers:
        for _ in range(times):
            customers.more(sextet)
            strike(sextet)
        customers.more(sextet)
    assert customers.failures == []
    orders = {number for number in shop.orders() if number.startswith(f"{goods}/")}
    assert orders == set(customers.confirmed)
    assert shop.stock(goods) == STOCK - len(orders)


def test_nothing_is_sold_that_is_not_there(shop: Shop) -> None:
    shop.deliver("rare", 2)
    shop.order("rare/1", "rare", 1)
    shop.order("rare/1", "rare", 1)  # the customer pressed the button twice
    shop.order("rare/2", "rare", 1)
    with pytest.raises(OutOfStock):
        shop.order("rare/3", "rare", 1)
    assert shop.stock("rare") == 0
    assert "rare/3" not in shop.orders()
