"""The attacks by name: their settings, the threat model of each, and whether it can be targeted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

from torch import Tensor

from featuregen.attacks.problem import AttackProblem
from featuregen.config.loader import did_you_mean, from_dict
from featuregen.errors import UserError, join_lines
from featuregen.runtime.console import format_columns

Threat = Literal["white-box", "query"]
_Run = TypeVar("_Run", bound=Callable[[AttackProblem, Any], Tensor])


@dataclass(frozen=True)
class AttackInfo:
    """One row of the table. A white-box attack follows gradients; one by queries sees logits or classes alone."""

    name: str
    run: Callable[[AttackProblem, Any], Tensor]
    settings: type
    meaning: str
    threat: Threat = "white-box"
    targeted: bool = True


ATTACKS: dict[str, AttackInfo] = {}

# What other packages call an attack. Random numbers and records go by the registered name.
_ALIASES = {"apgd": "auto-pgd", "autopgd": "auto-pgd", "fmn": "smallest"}
# Where the registered name says the norm: the first is taken unless a norm is asked for.
_ALIASES_BY_NORM = {
    "cw": {"l2": "foolbox-carlini-wagner"},
    "carlini-wagner": {"l2": "foolbox-carlini-wagner"},
    "deepfool": {"l2": "foolbox-deepfool-l2", "linf": "foolbox-deepfool-linf"},
}
_NORMS = {"2": "l2", "l2": "l2", "inf": "linf", "linf": "linf", "l∞": "linf"}


def register_attack(
    name: str, *, settings: type, meaning: str, threat: Threat = "white-box", targeted: bool = True
) -> Callable[[_Run], _Run]:
    """Add an attack to the table, so that `attack`, the command line and every check know it by its name.

    The decorated function takes an `AttackProblem` and its settings and returns images of the same shape. Settings
    named `norm` and `eps` describe an L2 or Linf ball, to which the images are then clipped. Registering a name again
    replaces it, except the name of an attack that comes with featuregen.

    Args:
        name: The name to call it by: lower case, with hyphens. Its random numbers are keyed by it.
        settings: A frozen dataclass whose fields have defaults.
        meaning: What it does, in half a line.
        threat: "white-box" if it needs gradients, "query" if logits or classes are enough.
        targeted: Whether it can reach a class that the caller names.

    Example:
        >>> from dataclasses import dataclass
        >>> import featuregen as fg
        >>> @dataclass(frozen=True)
        ... class Darker:
        ...     eps: float = 0.1
        >>> @fg.register_attack("darker", settings=Darker, meaning="every pixel darker by eps", threat="query")
        ... def darker(problem, settings):
        ...     return (problem.images - settings.eps).clamp(0, 1)
        >>> fg.list_attacks("dark*")
        ['darker']
    """
    if name != _spelled(name):
        raise UserError(f"'{name}' cannot name an attack; use lower case and hyphens, such as {_spelled(name)}.")
    if not (is_dataclass(settings) and isinstance(settings, type)):
        raise UserError(f"attack {name}: settings is {settings!r}; give a frozen dataclass.")

    def add(run: _Run) -> _Run:
        taken = name in _ALIASES or name in _ALIASES_BY_NORM
        if taken or (name in ATTACKS and ours(ATTACKS[name].run) and not ours(run)):
            raise UserError(f"'{name}' is an attack of featuregen's; register yours by another name.")
        ATTACKS[name] = AttackInfo(name, run, settings, meaning, threat, targeted)
        return run

    def ours(run: object) -> bool:
        return getattr(run, "__module__", "").startswith("featuregen.")

    return add


def list_attacks(pattern: str = "*") -> list[str]:
    """The names of all attacks, or of those that match a pattern.

    Args:
        pattern: A pattern as in file names; `*` stands for anything.

    Example:
        >>> import featuregen as fg
        >>> fg.list_attacks("*pgd")
        ['pgd', 'auto-pgd', 'foolbox-adam-pgd']
    """
    return [name for name in ATTACKS if fnmatchcase(name, pattern.lower())]


def find_attack(name: str, norm: object = None) -> AttackInfo:
    """The attack of this name or alias; `norm` decides where an alias stands for one attack per norm."""
    spelled = _spelled(name)
    if spelled in _ALIASES_BY_NORM:
        by_norm = _ALIASES_BY_NORM[spelled]
        chosen = next(iter(by_norm)) if norm is None else _spelled_norm(norm)
        if chosen not in by_norm:
            raise UserError(f"attack {name}: norm is '{norm}'; {did_you_mean(norm, by_norm)}")
        spelled = by_norm[chosen]
    spelled = _ALIASES.get(spelled, spelled)
    if spelled in ("autoattack", "auto-attack", "aa"):
        raise UserError(
            f"'{name}' is not part of featuregen: its 'ensemble' runs auto-PGD on cross-entropy and on the targeted "
            "difference of logits ratio, then minimal perturbation (FMN) in place of FAB, then Square, and is not "
            "AutoAttack; call it by that name, or install pyautoattack for the original."
        )
    if spelled not in ATTACKS:
        names = [*ATTACKS, *_ALIASES, *_ALIASES_BY_NORM]
        hint = did_you_mean(spelled, names)
        # A list of all names is a list of attacks, without their aliases.
        raise UserError(f"'{name}' is no attack; {hint if hint.endswith('?') else did_you_mean('', ATTACKS)}")
    return ATTACKS[spelled]


def settings_for(name: str, options: Mapping[str, Any]) -> Any:
    """The attack's settings with these options, checked; texts such as 8/255 are read as a config's are."""
    info, options = find_attack(name, options.get("norm")), dict(options)
    if "norm" in options:
        options["norm"] = _spelled_norm(options["norm"])
        if _spelled(name) in _ALIASES_BY_NORM:
            # It has chosen the attack.
            del options["norm"]
    return from_dict(info.settings, options, f"attack {info.name}")


def _spelled(name: object) -> str:
    return str(name).strip().lower().replace("_", "-")


def _spelled_norm(norm: object) -> object:
    """Linf, L_2 or inf as settings spell them; what is no norm stays as it is, and is refused as such."""
    return _NORMS.get(norm.lower().replace("_", "").replace("-", ""), norm) if isinstance(norm, str) else norm


def attack_table() -> str:
    """The table, ready to print."""
    rows = [("name", "threat model", "targeted", "settings and their defaults", "what it does")]
    for name, info in ATTACKS.items():
        options = ", ".join(f"{field.name} {_short(field.default)}" for field in fields(info.settings))
        rows.append((name, info.threat, "yes" if info.targeted else "no", options, info.meaning))
    return join_lines(format_columns(rows))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower()
