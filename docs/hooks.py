"""Hooks of the documentation site.

They add the pages that are made from the code (commands, API, settings), the changelog, and those files of the
repository that pages link to. Links are written as GitHub needs them and rewritten for the site.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.main import get_command

import featuregen
from featuregen.cli import app

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)")
# Files of the repository that are pages of the site, by the page's name there.
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
# The public names in the order of the page. A public name that is missing here fails the strict build.
API = {
    "Experiments": ("Experiment", "TrainedModel", "reproduce"),
    "Datasets": ("FeatureDataset", "synthesize", "verify", "diff", "merge", "export_dataset", "import_released"),
    "Images": ("load_images", "BaseDataset"),
    "Models": ("build_model", "load_model", "save_model", "save_checkpoint", "list_models", "Classifier", "Backbone"),
    "Training and evaluation": ("train", "evaluate", "Accuracy"),
    "Attacks": ("attack", "AttackResult", "list_attacks"),
    "Checks of models and labels": ("check_gradient_masking", "label_flips", "audit_labels"),
    "Extensions": ("register_attack", "register_architecture", "register_kind"),
    "Settings": ("load_config", "Config", "Data", "Training", "Synthesis", "Evaluation", "PGD"),
    "Errors": ("UserError", "CheckFailed"),
}
log = logging.getLogger("mkdocs.hooks")


class ExampleSections(griffe.Extension):
    """Shows the section `Example:` of a docstring as code; griffe knows only `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = {"reference/commands.md": commands(), "reference/api.md": api(), "reference/settings.md": settings()}
    made |= {page: (ROOT / name).read_text(encoding="utf-8") for name, page in PAGES.items()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    sources = [(page.src_uri, page.content_string) for page in files.documentation_pages()]
    while sources:
        uri, text = sources.pop()
        for link in LINK.findall(text):
            name = repository_path(uri, link)
            if name.startswith("docs/") or name in PAGES or files.get_file_from_path(name):
                continue
            if not (ROOT / name).is_file():
                raise PluginError(f"{uri} links to {link}, which is no file of the repository.")
            files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
            if name.endswith(".md"):
                sources.append((name, (ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return LINK.sub(lambda match: site_link(page.file.src_uri, match[0]), markdown)


def repository_path(uri: str, link: str) -> str:
    """The path in the repository that a link on a page means; pages lie in docs/, the others where they come from."""
    names = {page: name for name, page in PAGES.items()}
    origin = uri if (ROOT / uri).is_file() and not (ROOT / "docs" / uri).is_file() else names.get(uri, f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def site_link(uri: str, link: str) -> str:
    name = repository_path(uri, link)
    target = PAGES.get(name, name.removeprefix("docs/"))
    return posixpath.relpath(target, posixpath.dirname(uri) or ".")


# Pages made from the code -------------------------------------------------------------------------


def commands() -> str:
    """Every command with its help and its options, as the command line itself knows them."""
    group: Any = get_command(app)
    parts = ["# Command reference", "This page is made from the program's own help.", fenced(group.help)]
    parts += ["An option of featuregen itself comes before the name of the command:", *options(group, "featuregen")]
    for name in sorted(group.commands):
        command = group.commands[name]
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(["featuregen", name, *command.collect_usage_pieces(context)])
        parts += [f"## {name}", f"```text\n{usage}\n```", fenced(command.help), *options(command, name)]
    return "\n\n".join(parts) + "\n"


def options(command: Any, name: str) -> list[str]:
    """A table of the arguments and options, if there are any besides --help and those that install completion."""
    context = command.make_context(name, [], resilient_parsing=True)
    rows = [option(param.get_help_record(context)) for param in command.get_params(context)]
    rows = [row for row in rows if row and not re.match(r"\| `--(help|install-completion|show-completion)`", row)]
    return ["\n".join(["| argument or option | default | meaning |", "|---|---|---|", *rows])] if rows else []


def option(record: tuple[str, str] | None) -> str:
    """A row of the table; the default is what typer says, or the sentence of the help that says it."""
    if record is None:
        return ""
    name, text = record
    default = ""
    if found := re.search(r"\s*\[(?:default: (.*?)|(required))\]\s*$", text):
        text, default = text[: found.start()], f"`{found[1]}`" if found[1] else "required"
    elif found := re.search(r"\s*Default: (.*?)\.?$", text):
        text, default = text[: found.start()], found[1]
    words, _, values = name.partition(" <")
    values = re.sub(r"^list\[(.*)\]$", r"\1 …", values.removesuffix(">"))
    cells = [f"`{words}` {values.replace('|', ', ')}", default, text]
    return "| " + " | ".join(cell.replace("|", r"\|").strip() for cell in cells) + " |"


def fenced(text: str) -> str:
    """The help with its examples in one block, each on a line of its own; typer keeps them apart by blank lines."""
    paragraphs: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        line = paragraph.strip()
        if not re.match(r"(featuregen|torchrun) ", line):
            paragraphs.append(re.sub(r"\s*\n\s*", "\n", line))
        elif paragraphs and paragraphs[-1].endswith("```"):
            paragraphs[-1] = paragraphs[-1].removesuffix("```") + f"{line}\n```"
        else:
            paragraphs.append(f"```console\n{line}\n```")
    return "\n\n".join(paragraphs)


def api() -> str:
    """The public names by section, each by the path at which it can be read without being imported."""
    public, listed = set(featuregen.__all__), {name for names in API.values() for name in names}
    if missing := sorted(public - listed):
        log.warning("docs/hooks.py: API names no section for %s.", ", ".join(missing))
    if unknown := sorted(listed - public):
        log.warning("docs/hooks.py: API lists names that featuregen does not export: %s.", ", ".join(unknown))
    package = griffe.load("featuregen", search_paths=[str(ROOT)])
    parts = ["# Python API", "```python\nimport featuregen as fg\n```"]
    parts.append("These names are public. They are imported when they are first used, so `import featuregen` is quick.")
    for title, names in API.items():
        if here := [name for name in names if name in public]:
            parts += [f"## {title}", *(f"::: {place(package, name)}" for name in here)]
    return "\n\n".join(parts) + "\n"


def place(package: griffe.Object | griffe.Alias, name: str) -> str:
    """Where mkdocstrings finds the name: in the package where it is imported there, else where it is defined."""
    if name in package.members and not package.members[name].is_module:
        return f"featuregen.{name}"
    # A name that is imported only when it is used, or that a module shares.
    target = getattr(featuregen, name)
    return f"{target.__module__}.{target.__qualname__}"


def settings() -> str:
    """Every shipped config as it is."""
    parts = [
        "# Settings",
        "A config is a YAML file. These are shipped with the package; `--config NAME` selects one. "
        "Any line can be changed on the command line with `--set`, such as `--set synthesis.robust.steps=300`.",
    ]
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        parts += [f"## {path.stem}", f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```"]
    return "\n\n".join(parts) + "\n"
