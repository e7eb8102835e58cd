"""Files of the documentation site; a hook of `mkdocs.yml`.

Pages keep their paths in the repository, so the links between README, docs and experiments work on
the site and in a checkout.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SHOWN = ("README.md", "CITATION.cff", "LICENSE", "docs", "experiments")


def on_files(files: Files, config: Any) -> Files:
    """Replace the files of `docs_dir` by those of SHOWN that git does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *SHOWN]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    pages = [
        File(name, str(ROOT), config.site_dir, config.use_directory_urls)
        for name in names.splitlines()
        if not name.endswith(".py")
    ]
    themes = [file for file in files if Path(file.src_dir or "") != Path(config.docs_dir)]
    return Files([*themes, *pages])
