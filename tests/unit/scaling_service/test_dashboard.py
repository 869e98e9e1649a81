"""The dashboard in a real Chromium: the curve of a running experiment appears, in the right shape."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import threading

import pytest
import uvicorn

from cs336_scaling.app import create_app
from cs336_scaling.scheduler.queue import claim, report
from cs336_scaling.schemas.events import ValidationLossEvent
from tests.unit.scaling_service.configs import body_of


@pytest.mark.timeout(280)
def test_the_page_draws_the_learners_curve(require, sqlite_service, tmp_path):
    require("chromium")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    headers, other = sqlite_service.add_user("ada"), sqlite_service.add_user("bob")
    client = sqlite_service.client()
    for who, seed in ((headers, 0), (other, 1)):
        client.post("/submit", headers=who, json=body_of(10, seed=seed))
    for job in claim(sqlite_service.sessions, sqlite_service.settings):
        event = ValidationLossEvent(run_id=job.run_id, val_losses=[6.0, 4.5, 4.0])
        report(sqlite_service.sessions, job.experiment_id, event)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(), log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/dashboard#key={headers['X-API-Key']}"
        page = subprocess.run(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
             "--virtual-time-budget=4000", "--dump-dom", address],
            capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL,
        ).stdout  # fmt: skip
    finally:
        server.should_exit = True
        thread.join()
    (points,) = re.findall(r'<polyline points="([^"]*)"', page)
    heights = [float(point.split(",")[1]) for point in points.split()]
    assert heights == [20.0, 222.5, 290.0], "6.0 at the top, 4.0 at the bottom, 4.5 a quarter above"
    assert re.search(r"<dt>running</dt><dd>2</dd>", page) and "<td>4.0000</td>" in page
    assert page.count("<tr>") == 2, "the heading and one experiment: bob's is not shown"
