"""How far student code is locked in: three tiers, each tried for real before it is used, and named in every report.

    container   docker or podman: no network, read-only, no capabilities, limits on processes and memory
    namespace   user, mount, PID, network and IPC namespaces of Linux with an own root folder (`worker/sandbox.py`)
    process     limits and a clean environment: protects from accidents, NOT from malice (files and network are open)

The container tier needs an image with Python, numpy and torch, named by CS336_GRADER_IMAGE. Some systems refuse
unprivileged namespaces (Ubuntu 24.04's AppArmor, Docker's default seccomp profile), hence the trying. Read next:
`worker/sandbox.py`.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

TIERS = ("container", "namespace", "process")
SYSTEM_PATHS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/ld.so.conf",
                "/etc/localtime", "/etc/alternatives")  # fmt: skip
NAMESPACES = ("--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child")
DISK_MB = 256
PROBE_S = 60


def choose_tier(wanted: str = "auto") -> str:
    """The named tier, or the strongest that works here.

    Raises:
        ValueError: an unknown tier, or one that does not work on this machine, with what was tried.
    """
    if wanted == "auto":
        return next(tier for tier in TIERS if probe(tier) is None)
    if wanted not in TIERS:
        raise ValueError(f"isolation must be auto, {', '.join(TIERS)}; got {wanted!r}")
    if (problem := probe(wanted)) is not None:
        raise ValueError(f"isolation {wanted} does not work here: {problem}; use --isolation auto")
    return wanted


@functools.cache
def probe(tier: str) -> str | None:
    """Why `tier` cannot be used here, or None: it is tried by running Python in it."""
    if tier == "process":
        return None
    if tier == "container":
        if container_program() is None:
            return "neither docker nor podman is installed"
        if not os.environ.get("CS336_GRADER_IMAGE"):
            return "CS336_GRADER_IMAGE names no image with Python, numpy and torch"
    elif sys.platform != "linux" or shutil.which("unshare") is None:
        return "needs Linux and the program unshare (util-linux)"
    code = "import numpy, socket, sys; socket.create_server(('127.0.0.1', 0)); print('works')"
    with _probe_stage() as stage:
        command = [*prefix(tier, stage), *python(tier), "-c", code]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_S, env=environment())
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return None if "works" in done.stdout else (done.stderr.strip().splitlines() or ["no output"])[-1]


def server_command(tier: str, stage: Path) -> list[str]:
    """The command that starts the fork server on a stage folder (`student/`, `worker/`, `root/`).

    A submission comes without bytecode (`staging.py`) and none is written (-B), so what runs is its source; libraries
    are loaded from theirs, which saves 15 seconds of CPU time for basics.
    """
    inside = "/stage" if tier == "container" else str(stage)
    return [*prefix(tier, stage), *python(tier), "-I", "-B", f"{inside}/worker/serve.py", inside]


def prefix(tier: str, stage: Path) -> list[str]:
    """What stands before the interpreter."""
    if tier == "process":
        return []
    if tier == "container":
        limits = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        limits += ["--pids-limit", "256", "--memory", "4g", "--tmpfs", f"/tmp:size={DISK_MB}m,mode=1777"]
        mount = [
            "--volume",
            f"{stage}:/stage:ro",
            *(part for path in shared_models() for part in ("--volume", f"{path}:{path}:ro")),
        ]
        image = os.environ["CS336_GRADER_IMAGE"]
        return [str(container_program()), "run", "--rm", "--interactive", "--init=false", *limits, *mount, image]
    options = {"root": str(stage / "root"), "read_only": visible_paths(stage), "disk_mb": DISK_MB}
    sandbox = [sys.executable, "-I", "-B", str(stage / "worker" / "sandbox.py"), json.dumps(options)]
    return ["unshare", *NAMESPACES, *sandbox]


def python(tier: str) -> list[str]:
    """The interpreter inside the tier."""
    return ["python3"] if tier == "container" else [sys.executable]


def visible_paths(stage: Path) -> list[str]:
    """What a namespace shows: the system's libraries, this Python with its packages, and the stage.

    Folders that hold an interpreter beside other things (/usr/local is fine, a home folder is not) come in by their
    narrowest part: the environment's own folder.
    """
    executable = Path(sys.executable)
    chain = [executable]
    while chain[-1].is_symlink():
        chain.append((chain[-1].parent / os.readlink(chain[-1])).absolute())
    python = [sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), *site.getsitepackages()]
    installs = [str(path.parent.parent) for path in chain]
    paths = [*SYSTEM_PATHS, *sorted({*python, *installs} - {"/", "/usr"}, key=len)]
    stage_parts = [str(stage / part) for part in ("student", "worker")]
    return [*paths, *shared_models(), *stage_parts]


def shared_models() -> list[str]:
    """The folder of classifiers that all submissions may read (assignment 4), if CS336_GRADER_ASSETS names one.

    Raises:
        ValueError: it names no folder.
    """
    folder = os.environ.get("CS336_GRADER_ASSETS")
    if not folder:
        return []
    if not Path(folder).is_absolute() or not Path(folder).is_dir():
        raise ValueError(f"CS336_GRADER_ASSETS must be the full path of a folder; got {folder!r}")
    return [folder]


def environment() -> dict[str, str]:
    """What a worker sees of the environment: nothing of ours."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TORCH_COMPILE_DISABLE": "1",
    }


def container_program() -> str | None:
    """docker or podman, whichever is there."""
    return shutil.which("docker") or shutil.which("podman")


class _probe_stage:
    """A stage without a submission."""

    def __enter__(self) -> Path:
        import tempfile

        self._folder = tempfile.TemporaryDirectory(prefix="cs336-probe-")
        stage = Path(self._folder.name)
        prepare(stage)
        return stage

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def prepare(stage: Path) -> None:
    """Lay out the worker's half of a stage."""
    for name in ("student", "root", "worker"):
        (stage / name).mkdir(parents=True, exist_ok=True)
    for file in (Path(__file__).parent / "worker").glob("*.py"):
        shutil.copyfile(file, stage / "worker" / file.name)
