"""Build what is uploaded to an index of packages, check it, try it, and say how to upload it.

    python .ci/release.py [--brief | --without-tour]

From the tracked files: an archive of the source, and from that archive a wheel, both below dist/. In the long
description, which an index shows beside no other file, pictures and links get the project's address, and badges. The
checks are twine's; the tour is `wheel_tour.py`'s.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DIST = PROJECT / "dist"
PLACEHOLDER = "https://example.org/OWNER/diffmamba-interp"
IMAGE_OR_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)]+)\)")


def main(args: Sequence[str]) -> int:
    """Build, check, try, print what to upload; 0 if all of it holds."""
    if list(args) not in ([], ["--brief"], ["--without-tour"]):
        print(__doc__)
        return 2
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    address, version = pyproject["tool"]["release"]["address"], pyproject["project"]["version"]
    archive, wheel = build(address, version)
    check(archive, wheel)
    if "--without-tour" not in args:
        subprocess.run([sys.executable, PROJECT / ".ci" / "wheel_tour.py", *args, wheel], check=True)
    print("\n".join(["", *instructions(archive, wheel, address, version)]))
    return 0


def build(address: str, version: str) -> tuple[Path, Path]:
    """The source archive of the tracked files, and the wheel that is built from it alone."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        source, unpacked = Path(folder, "source"), Path(folder, "unpacked")
        copy_tracked(source)
        readme = source / "README.md"
        readme.write_text(long_description(readme.read_text(encoding="utf-8"), address, version), encoding="utf-8")
        with (source / "pyproject.toml").open("a", encoding="utf-8") as file:
            file.write(project_urls(address, version))
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", DIST], cwd=source, check=True)
        (archive,) = DIST.glob("*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(unpacked, filter="data")
        (source,) = unpacked.iterdir()
        subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", DIST], cwd=source, check=True)
    (wheel,) = DIST.glob("*.whl")
    return archive, wheel


def copy_tracked(target: Path) -> None:
    """The tracked files as they lie here, without what git ignores."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    names = subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, target / name)


def long_description(readme: str, address: str, version: str) -> str:
    """The README with badges below its title, and with addresses where it has paths."""

    def absolute(match: re.Match[str]) -> str:
        mark, words, path = match.groups()
        return f"{mark}[{words}]({address}/{'raw' if mark else 'blob'}/v{version}/{path})"

    title, rest = IMAGE_OR_LINK.sub(absolute, readme).split("\n", 1)
    return f"{title}\n\n{badges(address)}\n{rest}"


def badges(address: str) -> str:
    """Version and licence, as pictures that link to what they speak of."""
    shields, index = "https://img.shields.io", "https://pypi.org/project/diffmamba-interp/"
    return " ".join(
        f"[![{name}]({picture})]({target})"
        for name, picture, target in (
            ("version", f"{shields}/pypi/v/diffmamba-interp", index),
            ("licence", f"{shields}/pypi/l/diffmamba-interp", f"{address}/blob/main/LICENSE"),
        )
    )


def project_urls(address: str, version: str) -> str:
    """The table of addresses that an index shows at the side."""
    urls = {"Source": address, "Issues": f"{address}/issues", "Changelog": f"{address}/blob/v{version}/CHANGELOG.md"}
    return "\n[project.urls]\n" + "".join(f'{name} = "{url}"\n' for name, url in urls.items())


def check(archive: Path, wheel: Path) -> None:
    """What an index refuses, or shows wrongly."""
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", archive, wheel], check=True)


def instructions(archive: Path, wheel: Path, address: str, version: str) -> list[str]:
    """What is left to do by hand."""
    files = [str(file.relative_to(PROJECT)) for file in (archive, wheel)]
    sizes = ", ".join(f"{file.name} {file.stat().st_size / 1e6:.1f} MB" for file in (archive, wheel))
    head = f"release {version}: {sizes}"
    if address == PLACEHOLDER:
        return [
            head,
            f"not to be uploaded yet: the address is still {PLACEHOLDER}.",
            "Set `address` of [tool.release] in pyproject.toml, and run make release again.",
        ]
    return [
        head,
        "ready; what is left:",
        f"  git tag v{version} && git push origin v{version}",
        f"  python -m twine upload {' '.join(files)}",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
