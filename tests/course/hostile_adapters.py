"""A submission that attacks the grader in every way of the threat list; each function is an adapter of one problem."""

import os
import sys
import time

import numpy as np
import torch


def honest(x):
    return x * 2


def exits(x):
    os._exit(0)


def sys_exits(x):
    sys.exit(0)


def aborts(x):
    os.abort()


def segfaults(x):
    import ctypes

    ctypes.string_at(0)


def recurses(x):
    return recurses(x)


def eats_memory(x):
    hoard = [np.ones(1 << 24) for _ in range(100)]
    return x * len(hoard)


def hangs(x):
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


def forks(x):
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(1000)
            os._exit(0)
    time.sleep(1000)


def leaves_orphan(x):
    import subprocess

    command = [sys.executable, "-S", "-c", "import time; time.sleep(300)  # cs336-orphan"]
    subprocess.Popen(command, start_new_session=True)
    return x * 2


def fills_disk(x):
    with open("large", "wb") as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
    return x * 2


def floods_stdout(x):
    for _ in range(200):
        sys.stdout.write("x" * (1 << 20))
    return x * 2


def huge_answer(x):
    return torch.zeros(20_000_000)


def forges_results(x):
    for name in ("results.json", "out.xml"):
        with open(name, "w") as file:
            file.write('{"score": 100}')
    print('{"score": 100, "status": "passed"}', flush=True)
    return x * 0


def patches_comparisons(x):
    np.testing.assert_allclose = np.allclose = np.array_equal = lambda *a, **k: True
    torch.allclose = torch.equal = lambda *a, **k: True
    time.monotonic = lambda: 0.0
    return x * 0


class Agreeable(torch.Tensor):
    def __eq__(self, other):
        return True


def returns_subclass(x):
    return (x * 2).as_subclass(Agreeable)


def returns_objects(x):
    return np.array([object()])


def returns_nan(x):
    return x * float("nan")


def returns_other_shape(x):
    return (x * 2)[None]


def reads_stack(x):
    """Gives the right answer only if it lies somewhere in this process: in a frame's variables or any container."""
    import gc
    import inspect

    def is_answer(value):
        return value.shape == (4,) and [float(v) for v in value] == [2.0, 4.0, 6.0, 8.0]

    found = [v for frame in inspect.stack()[1:] for v in frame.frame.f_locals.values()]
    for held in gc.get_objects():
        if type(held) in (dict, list):
            found += [
                v for v in (held.values() if type(held) is dict else held) if type(v) in (np.ndarray, torch.Tensor)
            ]
    return x * 2 if any(is_answer(v) for v in found if type(v) in (np.ndarray, torch.Tensor)) else x * 0


def writes_to_pipes(x):
    for descriptor in range(3, 64):
        try:
            os.write(descriptor, b"\xff" * 100)
        except OSError:
            pass
    return x * 2


def kills_parent(x):
    import signal

    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.5)
    return x * 0


def imports_reference(x):
    import cs336_basics.nn_utils  # noqa: F401

    return x * 2


def imports_grader(x):
    import cs336_course.grading  # noqa: F401

    return x * 2


def finds_secrets(x):
    """Gives the right answer only if a canary can be read somewhere."""
    canary = "canary" + "-of-the-judge"
    texts = [str(os.environ)]
    for folder, _, files in os.walk("/"):
        if folder.startswith(("/usr", "/sys", "/lib", "/bin", sys.prefix, sys.base_prefix)):
            continue
        if folder.startswith("/proc/") and folder.count("/") > 2:
            continue
        for file in files:
            try:
                with open(os.path.join(folder, file), "rb") as handle:
                    texts.append(handle.read(10_000).decode(errors="ignore"))
            except OSError:
                pass
    return x * 2 if any(canary in text for text in texts) else x * 0


def reaches_network(x):
    import socket

    try:
        socket.create_connection(("192.0.2.1", 80), timeout=2)
    except TimeoutError:
        return x * 2  # a packet went out
    except OSError:
        return x * 0
    return x * 2


def uses_loopback(x):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    return x * 2


def finds_left_file(x):
    return x * 2 if os.path.exists("/tmp/left") or os.path.exists("left") else x * 0


def leaves_file(x):
    for name in ("left", "/tmp/left"):
        with open(name, "w") as file:
            file.write("left")
    return x * 2
