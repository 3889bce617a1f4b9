"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/errors.md",
    "docs/metrics.md",
    "docs/roadmap.md",
    "docs/sources.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_every_file_named_in_a_page_exists(pytestconfig: pytest.Config, page: str) -> None:
    root = pytestconfig.rootpath
    text = (root / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:[a-z_.]+/)+[A-Za-z_.]+\.(?:py|md|txt|toml))`", text)
    missing = [link for link in links if not (root / page).parent.joinpath(link).exists()]
    missing += [name for name in named if not (root / name).exists() and name != "docs/errors.md"]
    assert missing == []


def test_the_readme_names_every_command(pytestconfig: pytest.Config) -> None:
    text = "".join((pytestconfig.rootpath / page).read_text() for page in PAGES)
    processes = ("api", "orchestrator", "agent", "migrate", "temporal-setup", "dev")
    for command in (*processes, "publish", "load", "show", "audit"):
        assert f"loradock {command}" in text, command


def test_no_page_names_a_place_of_one_machine(pytestconfig: pytest.Config) -> None:
    for page in (*PAGES, "Makefile", ".env.example"):
        assert not re.search(r"/(?:home|root|opt|Users)/", Path(pytestconfig.rootpath / page).read_text()), (
            page
        )
