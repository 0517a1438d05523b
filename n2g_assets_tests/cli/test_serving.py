"""n2g explore: where it listens, many clients at once, and its end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from n2g_assets import cli
from n2g_assets.cli.serving import listening
from n2g_assets.core.errors import SettingsError


def test_a_port_in_use_or_an_address_of_another_machine_is_one_sentence(published, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert cli.main(["explore", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"Port {port} is in use: choose another with --port, or stop what uses it.\n"
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1:80 cannot be listened on \(.*\): choose another --host"):
        listening("192.0.2.1", 80)
    with pytest.raises(SettingsError, match=r"no\.such\.host\.invalid:80 cannot be listened on"):
        listening("no.such.host.invalid", 80)


@pytest.fixture
def served(published):
    """Starts ``n2g explore`` on a free port, and gives the process and its address."""
    started = []

    def serve(*options: str) -> tuple[subprocess.Popen, str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "n2g_assets.cli", "explore", "--port", str(port), *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[2])},
        )  # fmt: skip
        started.append(process)
        return process, re.search(r"http://\S+", process.stdout.readline())[0]

    yield serve
    for process in started:
        process.kill()
        process.communicate()


def answer_of(address: str | urllib.request.Request) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_200_clients_at_once_get_their_pages_and_ctrl_c_ends_it_with_0(served):
    process, address = served()
    with ThreadPoolExecutor(200) as clients:
        answers = list(clients.map(answer_of, [f"{address}/api"] * 150 + [f"{address}/api/study/none"] * 50))
    assert {status for status, _ in answers[:150]} == {200}
    assert {body for _, body in answers[150:]} == {
        b'{"error":"There is no study \'none\' in the database: choose one of tiny."}'
    }
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")


def test_100_kb_of_an_address_and_a_strange_name_get_a_sentence_over_a_socket(served):
    process, address = served()
    for path, said in (
        ("/api/search?q=" + "a" * 100_000, b"'q' in the address cannot be"),
        ("/api/" + "a" * 100_000, b"There is no page at /api/aaaa"),
        ("/api/search?text=" + "a" * 400_000, b"An address has 300,000 bytes at the most"),
    ):
        status, body = answer_of(address + path)
        assert status in {400, 404, 414}
        assert body.startswith(b'{"error":"' + said)
        assert len(body) < 1000
    text = "%F0%9F%98%80" * 20_000  # the longest, of the widest characters
    assert answer_of(f"{address}/api/search?text={text}")[0] == 200
    strange = urllib.request.Request(address + "/api", headers={"Host": "evil.example"})
    status, body = answer_of(strange)
    assert (status, body[:45]) == (421, b'{"error":"Nothing is served here as \'evil.exa')
    assert answer_of(f"{address}/api")[0] == 200
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_an_address_that_others_reach_is_warned_of(served):
    process, address = served("--host", "0.0.0.0")
    assert address.startswith("http://0.0.0.0:")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert re.fullmatch(r"Whoever reaches port \d+ of this machine can read the whole database\.\n", said)
