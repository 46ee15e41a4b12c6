"""The environment of the peers: what .venv holds, torch included, and they on top."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-bench"

# import name: requirement
PEERS = {
    "curvlinops": "curvlinops-for-pytorch==3.0.1",
    "foolbox": "foolbox==3.3.4",
    "hessian_eigenthings": "hessian-eigenthings==1.0.0a5",
    "landscaper": "landscaper==1.3.1",
    "nngeom": "nngeom==0.2.0",
    "pyhessian": "pyhessian==0.1",
    "pytorch_optimizer": "pytorch_optimizer==4.1.0",
}
# curvlinops asks for backpack, and that for torchvision, which would bring a torch of
# its own; landscaper for what draws its trees. None is used in what is measured here.
DRAWING = ["gudhi", "topopy", "nglpy", "treelib", "coloraide", "drawsvg"]
ALONE = [*PEERS.values(), *DRAWING]
WITH_THEIR_NEEDS = [
    *("einops", "einconv", "linear_operator", "opt-einsum", "tqdm"),
    *("eagerpy", "GitPython", "requests"),
]


def present() -> bool:
    """Whether this interpreter can import the peers."""
    return all(importlib.util.find_spec(name) for name in PEERS)


def python() -> Path:
    """The interpreter of the peers' environment, which is made if it is missing."""
    folder = "Scripts" if os.name == "nt" else "bin"
    interpreter = FOLDER / folder / ("python.exe" if os.name == "nt" else "python")
    ready = FOLDER / ".ready"
    wanted = "\n".join([*ALONE, *WITH_THEIR_NEEDS])
    # an environment made for other peers than these is made anew
    if ready.exists() and ready.read_text() == wanted:
        return interpreter
    print("Making .venv-bench for the peers (once) ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", FOLDER], check=True)
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    packages = subprocess.check_output([interpreter, "-c", where], text=True).strip()
    ours = sysconfig.get_paths()["purelib"]
    # a line of Python runs the parent's own .pth files too, such as flatlab's
    line = f"import site; site.addsitedir({ours!r})\n"
    (Path(packages) / "parent.pth").write_text(line)
    installed = subprocess.check_output(
        [interpreter, "-m", "pip", "freeze", "--exclude-editable"], text=True
    )
    constraints = FOLDER / "constraints.txt"
    constraints.write_text(
        "\n".join(l for l in installed.splitlines() if "==" in l and "@" not in l)
    )
    install = [interpreter, "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "--no-deps", *ALONE], check=True)
    subprocess.run([*install, "-c", constraints, *WITH_THEIR_NEEDS], check=True)
    ready.write_text(wanted)
    return interpreter
