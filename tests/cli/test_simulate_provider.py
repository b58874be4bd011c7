"""`simulate-provider` as a process of its own."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request


def test_serves_until_told_to_stop() -> None:
    """It says where it is, answers there, and ends in order on SIGTERM."""
    words = [sys.executable, "-m", "meterproxy", "simulate-provider", "--listen", "127.0.0.1:0", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        base_url = json.loads("".join(process.stdout.readline() for _ in range(3)))["base_url"]
        request = urllib.request.Request(f"{base_url}/models", headers={"Authorization": "Bearer any"})
        with urllib.request.urlopen(request) as answer:
            assert json.load(answer)["object"] == "list"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_port_in_use_is_one_line() -> None:
    """A port that somebody has is told in one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = ["simulate-provider", "--listen", f"127.0.0.1:{taken.getsockname()[1]}"]
        done = subprocess.run([sys.executable, "-m", "meterproxy", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "address already in use" in done.stderr
