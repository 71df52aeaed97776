"""Names of interchangeable parts: a part is found by its name, a wrong name is answered with the nearest."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from cryoaae.errors import InputError

Part = TypeVar("Part", bound=type)


class Registry(Generic[Part]):
    """Parts of one kind, each a module of one folder.

    Parameters
    ----------
    kind : str
        What the parts are, for messages: "prior".
    package : str
        Folder whose modules register their parts when imported: "cryoaae.priors".
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._parts: dict[str, Part] = {}

    def register(self, name: str) -> Callable[[Part], Part]:
        """Return a class decorator that files a part under `name`."""

        def file(part: Part) -> Part:
            if name in self._parts:
                raise ValueError(f"two {self.kind}s are named '{name}'")
            self._parts[name] = part
            return part

        return file

    def names(self) -> list[str]:
        """Names of all parts, sorted; imports their modules."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self._parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> Part:
        """Return the part of a name.

        Raises
        ------
        InputError
            If there is none; names the nearest.
        """
        known = self.names()
        if name not in self._parts:
            raise InputError(name, f"not a {self.kind}", suggestion(name, known))
        return self._parts[name]

    def make(self, name: str, *arguments: Any, **keywords: Any) -> Any:
        """Construct a part.

        Raises
        ------
        InputError
            If the name or a keyword is unknown.
        """
        part = self[name]
        taken = inspect.signature(part).parameters
        for keyword in keywords:
            if keyword not in taken:
                raise InputError(f"{name}.{keyword}", f"not a setting of this {self.kind}", suggestion(keyword, taken))
        return part(*arguments, **keywords)


def make_part(registry: Registry, component: Mapping[str, Any], *arguments: Any, **keywords: Any) -> Any:
    """Construct a part from {name, **its constructor's keywords}.

    Raises
    ------
    InputError
        If there is no such part, or it refuses its keywords.
    """
    own = {key: value for key, value in component.items() if key != "name"}
    try:
        return registry.make(component["name"], *arguments, **keywords, **own)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(f"{registry.kind} {component['name']}", str(error), "correct its settings") from error


def suggestion(name: str, known: Any) -> str:
    """What a user who wrote `name` may have meant."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
