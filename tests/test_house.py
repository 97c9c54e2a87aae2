"""The house rules, so that nobody has to remember them."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlgen

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "rlgen").rglob("*.py"))
GENERATIVE = [file for file in FILES if "generative" in file.parts]
LINES_OF_A_FILE = 400
LINES_OF_A_CLASS = 250
LINES_OF_A_FUNCTION = 50
RL_WORDS = {"reward", "action", "policy", "policie", "agent", "env", "environment"}
FORBIDDEN_NAMES = {"print", "hasattr", "NotImplementedError", "breakpoint", "eval", "exec"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def words_of(text: str) -> Iterator[str]:
    """The words of prose and identifiers: `HTTPReward_fn` gives http, reward, fn; no plural s."""
    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text):
        yield word.lower().removesuffix("s")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_classes_and_functions_are_short(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            limit = LINES_OF_A_CLASS
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit = LINES_OF_A_FUNCTION
        else:
            continue
        length = _lines_of_code(node)
        assert length <= limit, f"{node.name}: {length} lines"


def _lines_of_code(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Its lines without its docstring, which may be long where the mathematics is."""
    assert node.end_lineno is not None
    docstring = node.body[0] if ast.get_docstring(node) is not None else None
    spent = 0 if docstring is None else (docstring.end_lineno or 0) - docstring.lineno + 1
    return node.end_lineno - node.lineno + 1 - spent


@pytest.mark.parametrize("file", GENERATIVE, ids=name_of)
def test_the_generative_floor_has_no_word_of_reinforcement_learning(file: Path) -> None:
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        found = RL_WORDS.intersection(words_of(line))
        assert not found, f"line {number}: {line.strip()}"


def test_the_words_are_found_in_identifiers_and_not_inside_other_words() -> None:
    assert {"reward", "policie"} <= set(words_of("compute_rewards(SoftPolicies)"))
    assert not RL_WORDS & set(words_of("interaction, transaction, envelope, reagent, activation"))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_no_forbidden_names(file: Path) -> None:
    allowed = {"print"} if file.name == "cli.py" else set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Name):
            assert node.id not in FORBIDDEN_NAMES - allowed, f"line {node.lineno}: {node.id}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: a bare except"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_module_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text()))


def run_python(code: str) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_generative_floor_needs_torch_and_numpy_alone() -> None:
    run_python("""
import sys
for name in ("rich", "safetensors", "sklearn", "scipy", "matplotlib", "tyro", "tensorboard",
             "stable_baselines3", "minigrid", "gymnasium", "torchdiffeq"):
    sys.modules[name] = None  # importing it raises ImportError
import torch
from rlgen.generative import catalogue, fit
for family in catalogue():
    model = family.small[0]()
    assert isinstance(model, torch.nn.Module)
""")


def test_worlds_need_torch_numpy_and_gymnasium_alone() -> None:
    run_python("""
import sys
import gymnasium  # which may bring plugins
for name in ("rich", "safetensors", "sklearn", "scipy", "matplotlib", "tyro", "tensorboard",
             "stable_baselines3", "minigrid", "pygame", "PIL"):
    sys.modules[name] = None  # importing it raises ImportError
import rlgen.envs
env = gymnasium.make("rlgen/FourRooms-v0", render_mode="rgb_array")
env.reset(seed=0)
env.step(0)
env.render()
venv = gymnasium.make_vec("rlgen/OpenWorld-v0", 3, vectorization_mode="vector_entry_point")
venv.reset(seed=0)
rlgen.envs.adapters.from_gymnasium(
    rlgen.envs.adapters.NativeVectorEnv(rlgen.envs.FourRooms(2), "SameStep")
).reset()
""")


def test_importing_does_nothing_but_import() -> None:
    run_python("""
import sys
import warnings
import gymnasium, gymnasium.vector  # read their plugins, and say so in the environment
import numpy, torch
import torch.utils.data, torch.distributions, torch.func

seen = []
def watch(event, arguments):
    if event == "open":
        # a module's code and, for linecache, its source are what importing itself reads
        if not str(arguments[0]).endswith((".py", ".pyc", ".so")):
            seen.append((event, arguments))
    elif event in ("subprocess.Popen", "os.system", "os.mkdir", "os.putenv", "socket.connect"):
        seen.append((event, arguments))

def state():
    return (torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state().tolist(),
            numpy.random.get_state()[1].tolist(), torch.is_grad_enabled(),
            torch.distributions.Distribution._validate_args, list(warnings.filters))

before = state()
sys.addaudithook(watch)
import rlgen.checkpoint, rlgen.envs, rlgen.generative, rlgen.seeding
rlgen.generative.catalogue()
assert not seen, seen
assert state() == before
""")


def test_the_version_has_one_source() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", rlgen.__version__)
    assert rlgen.__version__ not in (ROOT / "pyproject.toml").read_text()


def test_constraints_pin_every_dependency_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)  # no local suffix
    pinned = {_canonical(pin.split("==")[0]) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for wanted in [*project["dependencies"], *extras["test"], *extras["dev"]]:
        name = re.split(r"[\[>=<]", wanted)[0]
        assert name == "rlgen" or _canonical(name) in pinned, wanted
        assert "<" not in wanted and "==" not in wanted, f"{wanted}: lower bounds only"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
