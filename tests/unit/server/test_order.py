"""The order on the pipe."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from qimem.config.load import load
from qimem.kernel.secret import SecretBytes
from qimem.server.order import Order


def sent() -> tuple[Order, int]:
    settings = load({}, {"DATABASE_URL": "postgresql://u:p@h/d"}).settings
    order = Order(settings, SecretBytes(bytes(range(32))), "127.0.0.1", 8080, "http://127.0.0.1:8080", tls=7)
    reader, writer = os.pipe()
    order.send(writer)
    os.close(writer)
    return order, reader


def test_an_order_arrives_whole() -> None:
    order, reader = sent()
    arrived = Order.receive(reader)
    assert arrived.root_key.equals(order.root_key.reveal())
    assert (arrived.host, arrived.port, arrived.url) == (order.host, order.port, order.url)
    assert arrived.tls == order.tls == 7
    assert arrived.settings.database.url.reveal() == "postgresql://u:p@h/d"
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("kept", [0, 3, 4, 50, -1])
def test_an_order_cut_short_is_none(kept: int) -> None:
    _, reader = sent()
    whole = os.read(reader, 1 << 16)
    os.close(reader)
    reader, writer = os.pipe()
    os.write(writer, whole[:kept])
    os.close(writer)
    with pytest.raises(EOFError):
        Order.receive(reader)
    os.close(reader)


def test_a_worker_whose_supervisor_is_gone_does_not_begin() -> None:
    """It died before the worker could learn who it was: its end of the pipe is closed."""
    _, orders = sent()
    reader, reports = os.pipe()
    os.close(reader)
    code = "import sys; from qimem.server.worker import main; main(sys.argv[1:], lambda *_: print('began'))"
    command = [sys.executable, "-c", code.replace("main(sys", "raise SystemExit(main(sys") + ")"]
    done = subprocess.run(
        [*command, str(orders), str(reports)],
        pass_fds=(orders, reports),
        capture_output=True,
        text=True,
        check=False,
    )
    os.close(orders)
    os.close(reports)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
